"""What a dataset needs of the cache: every text and every view of an image, once, by its key."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from diptych.datasets.plan import Plan
from diptych.datasets.spec import CacheMode, DatasetSpec
from diptych.digest import Digest
from diptych.embedding_cache.ports import Encoding, NeedsConfig, PromptWish, Stage
from diptych.embeddings.key import EncoderIdentity, ImageRecord, PromptRecord
from diptych.errors import DatasetInvalid, FieldViolation, PromptTooLong

__all__ = ["Need", "Needs", "Shard", "list_needs", "shards_of"]

Kind = Literal["prompt", "image"]
KINDS: Final[tuple[Kind, ...]] = ("prompt", "image")
EVALUATION: Final = 0
"""The epoch that an evaluation set is seen in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One embedding, and what it is made of."""

    key: Digest
    record: PromptRecord | ImageRecord
    stage: Stage
    """Whose encoders make it."""
    dataset: str
    place: int = -1
    """Of the image in its dataset's index; -1 of a text."""
    is_made: bool = True
    """Whether it is encoded where it is missing; its dataset may be read-only."""

    @property
    def kind(self) -> Kind:
        """Return prompt or image."""
        return "prompt" if isinstance(self.record, PromptRecord) else "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """All that a dataset needs for some stages."""

    needs: tuple[Need, ...]
    """Each key once, whatever stages and datasets share it; those of one shape together."""
    kept: Mapping[Stage, Sequence[Digest]]
    """What each stage of a run asks for, whether it is made here or not."""
    num_cut: int
    """Captions that are longer than the encoders' window, and lose their end."""
    left_out: tuple[tuple[str, str], ...]
    """Dataset and kind, and why nothing of it is made here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Some needs of one shape that are made together and claimed as one."""

    name: str
    """The same wherever the same needs are listed."""
    needs: tuple[Need, ...]


def list_needs(
    plans: Iterable[Plan], encodings: Mapping[Stage, Encoding], config: NeedsConfig
) -> Needs:
    """Return what datasets need of the encoders of some stages.

    Raises:
        DatasetInvalid: All that they need bypasses the cache.
        InvalidRequest: An image's crop does not suit the encoder.
    """
    listing = _Listing(encodings, config)
    all_plans = list(plans)
    for plan in all_plans:
        listing.add(plan)
    _check_kept([plan.spec for plan in all_plans])
    return listing.needs()


def shards_of(needs: Iterable[Need], *, size: int) -> Iterator[Shard]:
    """Yield ``needs``, ``size`` at a time, those of unlike shapes apart."""
    group: list[Need] = []
    for need in needs:
        if group and (len(group) == size or _shape(group[0]) != _shape(need)):
            yield _shard(group)
            group = []
        group.append(need)
    if group:
        yield _shard(group)


class _Listing:
    """Gathers needs, equal ones of several stages and datasets once."""

    def __init__(self, encodings: Mapping[Stage, Encoding], config: NeedsConfig) -> None:
        self._config = config
        self._encodings = encodings
        self._found: dict[Digest, Need] = {}
        self._kept: dict[Stage, dict[Digest, None]] = {stage: {} for stage in encodings}
        self._cut: set[str] = set()
        self._left_out: list[tuple[str, str]] = []
        self._stages: dict[Kind, list[list[Stage]]] = {
            kind: _alike(encodings, kind) for kind in KINDS
        }

    def add(self, plan: Plan) -> None:
        """Add what one dataset needs."""
        for kind in KINDS:
            mode = _mode(plan.spec, kind)
            if reason := _reason(mode, is_forced=self._config.force):
                self._left_out.append((f"{plan.spec.id} {kind}s", reason))
            if mode == "bypass":
                continue
            is_made = mode == "read_through" or (mode == "on_demand" and self._config.force)
            for stages in self._stages[kind]:
                for need in self._listed(plan, kind, stages[0]):
                    self._take(replace(need, is_made=is_made), stages, is_asked=mode != "on_demand")

    def needs(self) -> Needs:
        """Return what was gathered."""
        return Needs(
            needs=tuple(sorted(self._found.values(), key=_order)),
            kept={stage: tuple(keys) for stage, keys in self._kept.items()},
            num_cut=len(self._cut),
            left_out=tuple(self._left_out),
        )

    def _take(self, need: Need, stages: Sequence[Stage], *, is_asked: bool) -> None:
        for stage in stages:
            self._kept[stage][need.key] = None
        known = self._found.get(need.key)
        if (is_asked or need.is_made) and (known is None or not known.is_made):
            self._found[need.key] = need

    def _listed(self, plan: Plan, kind: Kind, stage: Stage) -> Iterator[Need]:
        encoding, dataset = self._encodings[stage], plan.spec.id
        if kind == "prompt":
            for text in dict.fromkeys(plan.required_prompts()):
                record = self._prompt(encoding, text)
                yield Need(key=record.key(), record=record, stage=stage, dataset=dataset)
            return
        for row, preprocessing in plan.required_images(self._epochs(plan.spec)):
            place = plan.place(row)
            image = encoding.image_record(plan.index.image(place), preprocessing)
            yield Need(key=image.key(), record=image, stage=stage, dataset=dataset, place=place)

    def _epochs(self, spec: DatasetSpec) -> Sequence[int]:
        if spec.kind == "eval":
            return (EVALUATION,)
        first, last = spec.sampling.start_epoch, spec.sampling.end_epoch
        limit = self._config.num_epochs if last is None else min(last, self._config.num_epochs)
        return range(first, 1 + max(first, limit))

    def _prompt(self, encoding: Encoding, text: str) -> PromptRecord:
        try:
            return encoding.prompt_record(PromptWish(text=text, field="caption"))
        except PromptTooLong:
            if self._config.long_prompt == "truncate":
                self._cut.add(text)
            wish = PromptWish(text=text, long_prompt=self._config.long_prompt, field="caption")
            return encoding.prompt_record(wish)


def _alike(encodings: Mapping[Stage, Encoding], kind: Kind) -> list[list[Stage]]:
    """Return the stages in groups that have the same encoders of a kind, and so the same keys."""
    groups: dict[EncoderIdentity, list[Stage]] = {}
    for stage, encoding in encodings.items():
        found = encoding.identities
        groups.setdefault(found.prompt if kind == "prompt" else found.image, []).append(stage)
    return list(groups.values())


def _mode(spec: DatasetSpec, kind: Kind) -> CacheMode:
    return spec.cache.prompts if kind == "prompt" else spec.cache.images


def _reason(mode: CacheMode, *, is_forced: bool) -> str:
    """Return why nothing is made in this mode; empty where it is."""
    if mode == "on_demand" and not is_forced:
        return "made on demand, while training"
    if mode == "read_only":
        return "read-only: nothing is made"
    return "bypasses the cache: nothing is kept" if mode == "bypass" else ""


def _check_kept(specs: Sequence[DatasetSpec]) -> None:
    """Refuse a manifest of which nothing is kept.

    Raises:
        DatasetInvalid: It is one.
    """
    violations = [
        FieldViolation(
            field=f"datasets.{spec.id}.cache.{kind}s",
            description="bypass keeps nothing, so there is nothing to warm up",
        )
        for spec in specs
        for kind in KINDS
        if _mode(spec, kind) == "bypass"
    ]
    if violations and len(violations) == len(specs) * len(KINDS):
        raise DatasetInvalid(violations)


def _shape(need: Need) -> tuple[str, str, tuple[int, ...]]:
    """Return what needs have in common that are encoded in one batch."""
    size = need.record.preprocessing.crop[2:] if isinstance(need.record, ImageRecord) else ()
    return need.kind, need.stage.value, size


def _order(need: Need) -> tuple[bool, tuple[str, str, tuple[int, ...]], str]:
    return not need.is_made, _shape(need), need.key.hex


def _shard(needs: Sequence[Need]) -> Shard:
    digest = hashlib.sha256("".join(need.key.hex for need in needs).encode())
    return Shard(name=digest.hexdigest()[:32], needs=tuple(needs))
