"""The file as a whole: its entries become datasets, masks, filters and settings of the cache."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diptych.datasets.manifest import parse_manifest, write_manifest
from diptych.datasets.simpletuner.captions import captions_of, filters_of
from diptych.datasets.simpletuner.options import GLOBALS, Options, Said
from diptych.datasets.simpletuner.sampling import cache_of, sampling_of
from diptych.datasets.simpletuner.sizes import crop_of, own_sizes, size_of
from diptych.datasets.simpletuner.sources import source_of
from diptych.datasets.spec import Manifest
from diptych.errors import DatasetInvalid, FieldViolation

__all__ = ["Conversion", "convert_simpletuner", "read_json"]

Part = dict[str, Any]

MAX_BYTES: Final = 16 * 2**20
_EMBEDS: Final = ("text_embeds", "image_embeds", "conditioning_image_embeds")
_TYPES: Final = (
    *("image", "eval", "conditioning", *_EMBEDS, "video", "audio", "caption", "grounding"),
    "distillation_cache",
)
_MASKS: Final = ("mask", "segmentation")
_BAD_IN_ID: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """What a file of SimpleTuner's comes to."""

    manifest: Manifest
    text: str
    """The manifest as YAML, with what was translated how as comments."""
    said: tuple[Said, ...]
    """What became of every option."""

    @property
    def unsupported(self) -> tuple[Said, ...]:
        """Return what changes training and cannot be said here."""
        return tuple(one for one in self.said if one.outcome == "unsupported")


def read_json(data: bytes, name: str) -> Any:  # noqa: ANN401 - what the file says
    """Return what a JSON file holds.

    Raises:
        DatasetInvalid: It holds none, or is too large.
    """
    if len(data) > MAX_BYTES:
        raise _refusal(name, f"{len(data)} bytes, the limit is {MAX_BYTES}")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise _refusal(name, f"no JSON: {error}") from error


def convert_simpletuner(
    data: bytes,
    *,
    base: Path,
    defaults: Mapping[str, Any] | None = None,
    aspect_map: Mapping[str, Any] | None = None,
) -> Conversion:
    """Return the manifest of a ``multidatabackend.json``.

    Args:
        data: The file.
        base: What relative paths in it begin at: the folder SimpleTuner was started in.
        defaults: SimpleTuner's global options that stand behind those of entries.
        aspect_map: An ``aspect_resolution_map`` of its own, for every entry.

    Raises:
        DatasetInvalid: The file is none of SimpleTuner's, or a value is not what it must be.
    """
    converting = _Converting(_entries(read_json(data, "file")), base, dict(defaults or {}))
    sizes = _own_sizes(aspect_map) if aspect_map is not None else {}
    datasets = list(converting.datasets(sizes))
    said = converting.finish()
    if not datasets:
        raise _refusal("file", "no entry of it is a dataset of images")
    draw = converting.draw()
    plain = {"datasets": datasets, **({"draw": draw} if draw != "weighted" else {})}
    manifest = parse_manifest(json.dumps(plain).encode(), folder=base)
    text = _commented(write_manifest(manifest), said, converting.names)
    return Conversion(manifest=manifest, text=text, said=said)


def _entries(value: object) -> list[Part]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise _refusal("file", "a multidatabackend.json is a list of objects")
    ids = [str(one.get("id", "")) for one in value]
    if "" in ids:
        raise _refusal("file", f"entry {ids.index('') + 1} has no id")
    if repeated := sorted({one for one in ids if ids.count(one) > 1}):
        raise _refusal("file", f"several entries have the id {', '.join(repeated[:8])}")
    return value


def _own_sizes(aspect_map: Mapping[str, Any]) -> Part:
    try:
        return own_sizes(aspect_map)
    except ValueError as error:
        raise _refusal("aspect_map", str(error)) from error


class _Converting:
    """Holds the entries of one file, and what was said of their options."""

    def __init__(self, entries: Sequence[Part], base: Path, defaults: Part) -> None:
        self._base = base
        self._defaults = {key: value for key, value in defaults.items() if key in GLOBALS}
        self._said: list[Said] = []
        self._options = {
            str(one["id"]): Options(str(one["id"]), one, self._defaults, self._said)
            for one in entries
        }
        self._types = {name: self._type_of(name) for name in self._options}
        self._used: set[str] = set()
        self.names: Final[dict[str, str]] = {}
        """Ids as the manifest spells them, to the file's."""

    def datasets(self, own_buckets: Part) -> Iterator[Part]:
        """Yield the datasets, and answer for what is none."""
        for name, options in self._options.items():
            kind = self._types[name]
            if kind in {"image", "eval"}:
                if (found := self._dataset(name, options, own_buckets)) is not None:
                    yield found
            elif kind in _EMBEDS:
                options.say("dataset_type", "translated", "embeddings are kept in one store")
                for option in ("type", "disabled", "disable"):
                    options.own(option)
                options.say("type", "ignored", "the store is a setting of the embedding cache")
            elif kind != "conditioning":
                options.drop(f"dataset_type {kind} has no counterpart here")

    def finish(self) -> tuple[Said, ...]:
        """Return all that was said."""
        for name, options in self._options.items():
            is_unused = self._types[name] == "conditioning" and name not in self._used
            if is_unused:
                self._said.append(
                    Said(
                        entry=name,
                        option="*",
                        value="",
                        outcome="ignored",
                        detail="no dataset of images uses it",
                    )
                )
            elif self._types[name] in {"image", "eval", "conditioning", *_EMBEDS}:
                options.finish()
        self._finish_defaults()
        return tuple(self._said)

    def _finish_defaults(self) -> None:
        shared = Options("defaults", self._defaults, {}, self._said)
        for option in self._defaults:
            if any(one.is_read(option) for one in self._options.values()):
                shared.get(option)
            elif not option.startswith("delete_"):
                shared.say(option, "ignored", "no dataset asks for it")
        shared.say("data_backend_sampling", "translated", f"draw: {self.draw()}")
        shared.finish()

    def draw(self) -> str:
        """Return how datasets are mixed."""
        found = self._defaults.get("data_backend_sampling") or "auto-weighting"
        return "uniform" if found == "uniform" else "weighted"

    def _type_of(self, name: str) -> str:
        options = self._options[name]
        options.own("id")
        kind = options.choice("dataset_type", _TYPES, "image")
        others = [one.own("image_embeds") for one in self._options.values()]
        if kind == "image" and name in others and not options.own("instance_data_dir"):
            return "image_embeds"
        return kind

    def _dataset(self, name: str, options: Options, own_buckets: Part) -> Part | None:
        source = source_of(options, self._base)
        if source is None:
            return None
        found: Part = {"id": self._named(name, options), "source": source}
        if self._types[name] == "eval":
            found["kind"] = "eval"
            options.say("dataset_type", "translated", "kind: eval")
        elif options.flag("is_regularisation_data") or options.flag("is_regularization_data"):
            found["kind"] = "regularisation"
            for option in ("is_regularisation_data", "is_regularization_data"):
                options.say(option, "translated", "kind: regularisation")
        if options.flag("disabled") or options.flag("disable") or _is_never_drawn(options):
            found["disabled"] = True
        texts = self._texts(options)
        filters = filters_of(texts, self._base) if texts else []
        self._refuse_misplaced_filters(options)
        size, buckets = size_of(options)
        parts = {
            "captions": captions_of(options, filters),
            "size": size,
            "buckets": own_buckets or buckets,
            "crop": crop_of(options),
            "sampling": sampling_of(options),
            "masks": self._masks(name, options),
            "cache": cache_of(options, texts),
        }
        return {**found, **{key: part for key, part in parts.items() if part}}

    def _named(self, name: str, options: Options) -> str:
        ours = _BAD_IN_ID.sub("-", name).strip("-.")[:120] or "dataset"
        while ours in self.names:
            ours += "-"
        self.names[ours] = name
        if ours != name:
            options.say("id", "translated", f"id: {ours}")
        return ours

    def _texts(self, options: Options) -> Options | None:
        """Return the entry of text embeds that a dataset uses."""
        wanted = options.own("text_embeds")
        texts = {
            name: self._options[name] for name, kind in self._types.items() if kind == "text_embeds"
        }
        if wanted is not None:
            if wanted not in texts:
                raise _refusal(f"{options.entry}: text_embeds", f"no entry {wanted!r:.60} of them")
            options.say("text_embeds", "translated", "its filters and its mode of caching")
            return texts[wanted]
        chosen = [one for one in texts.values() if one.flag("default")] or list(texts.values())
        return chosen[0] if chosen else None

    def _refuse_misplaced_filters(self, options: Options) -> None:
        if options.own("caption_filter_list") is not None:
            detail = "belongs to text_embeds, SimpleTuner refuses it here"
            options.say("caption_filter_list", "unsupported", detail)

    def _masks(self, name: str, options: Options) -> Part | None:
        """Return ``masks`` of the entries that condition a dataset."""
        given = options.own("conditioning_data")
        named = given if isinstance(given, list) else [given] if given else []
        naming = [
            other
            for other, one in self._options.items()
            if self._types[other] == "conditioning" and one.own("source_dataset_id") == name
        ]
        found = []
        for other in dict.fromkeys(map(str, [*named, *naming])):
            if self._types.get(other) != "conditioning":
                raise _refusal(f"{name}: conditioning_data", f"no such entry {other!r:.60}")
            self._used.add(other)
            if (mask := self._mask(self._options[other])) is not None:
                found.append(mask)
        if len(found) > 1:
            options.say("conditioning_data", "unsupported", "one set of masks is used")
        elif found:
            options.say("conditioning_data", "translated", "masks")
        return found[0] if found else None

    def _mask(self, options: Options) -> Part | None:
        kind = options.get("conditioning_type")
        if options.flag("disabled") or options.flag("disable"):
            return None
        if kind not in _MASKS:
            options.drop(f"conditioning_type {kind} is not trained on here")
            return None
        source = source_of(options, self._base)
        found: Part = {"source": source}
        options.say("conditioning_type", "translated", "masks, paired by path without extension")
        if kind == "segmentation":
            found["binary"] = True
            probability = options.number("masked_loss_probability", 1.0)
            if probability != 1.0:
                found["probability"] = probability
        return found if source is not None else None


def _is_never_drawn(options: Options) -> bool:
    if options.number("probability", 1.0) != 0:
        return False
    options.say("probability", "translated", "disabled: true, since it is never drawn")
    return True


def _commented(text: str, said: Iterable[Said], names: Mapping[str, str]) -> str:
    """Return a manifest's text with what was said above each dataset."""
    notes: dict[str, list[str]] = {}
    for one in said:
        if one.outcome not in {"honoured", "ignored"} or one.option == "*":
            entry = one.entry.partition(": ")[0]
            option = one.entry.partition(": ")[2]
            name = f"{option}.{one.option}" if option else one.option
            line = f"# {one.outcome}: {name} {one.value}".rstrip()
            notes.setdefault(entry, []).append(f"{line} - {one.detail}")
    lines = ["# From SimpleTuner's multidatabackend.json."]
    datasets = set(names.values())
    for entry, found in notes.items():
        if entry not in datasets:
            lines += [f"# {_plain(entry)}:", *map(_plain, found)]
    for line in text.splitlines():
        if line.startswith("- id: "):
            ours = list(names)[sum(one.startswith("- id: ") for one in lines)]
            lines += map(_plain, notes.get(names[ours], []))
        lines.append(line)
    return "\n".join(lines) + "\n"


def _plain(line: str) -> str:
    return "".join(one if one.isprintable() else " " for one in line)


def _refusal(field: str, problem: str) -> DatasetInvalid:
    return DatasetInvalid([FieldViolation(field=field, description=problem)])
