"""What the header of a kohya-style file says of an adapter: ``ss_*`` and ``modelspec.*``.

A file that we write also has one text of our own, ``diptych_adapter_facts``: canonical JSON of
what the others have no word for, and of the entries that were added for other programs' sake.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from diptych.adapters.adapter import Adapter, MadeFor, Stage
from diptych.adapters.keymap import NANO_LAYOUT, REFINER_LAYOUT, SDXL_LAYOUT, BlockLayout
from diptych.adapters.purpose import made_for_from_plain, made_for_to_plain
from diptych.digest import canonical_bytes
from diptych.errors import AdapterInvalid
from diptych.storage.tensor_header import Refuse, parse_json

__all__ = ["FACTS_KEY", "KohyaHeader", "layout_of", "read_header", "write_header"]

FACTS_KEY: Final = "diptych_adapter_facts"
_VERSION: Final = 1
_OF_THE_FILE: Final = frozenset(
    {"format", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256"}
)
"""Entries that describe a file's bytes and would be untrue of any other file."""
_FAMILIES: Final = {
    "stable-diffusion-xl-v1-base": "sdxl-base",
    "stable-diffusion-xl-v1-refiner": "sdxl-refiner",
    "sdxl_base_v1-0": "sdxl-base",
}
"""By architecture in modelspec and by ``ss_base_model_version``."""
_ARCHITECTURES: Final = {
    "sdxl-base": "stable-diffusion-xl-v1-base/lora",
    "sdxl-refiner": "stable-diffusion-xl-v1-refiner/lora",
}
_LAYOUTS: Final = {"nano": NANO_LAYOUT, "sdxl-refiner": REFINER_LAYOUT}
_PREDICTIONS: Final = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_TRUTHS: Final = {"True": True, "False": False}
_TIMESTEPS: Final = re.compile(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class KohyaHeader:
    """What a header says, in our words."""

    made_for: MadeFor
    trigger_words: tuple[str, ...]
    metadata: Mapping[str, str]
    """The entries that are the adapter's, as they were."""
    layout: BlockLayout | None
    """What sgm's block numbers are counted by, where the header tells."""
    is_exact: bool
    """Whether we wrote it, so that nothing need be guessed."""


def read_header(texts: Mapping[str, str], *, source: str) -> KohyaHeader:
    """Return what a file's header says; entries that cannot be understood are only carried.

    Raises:
        AdapterInvalid: Our own entry is there and not as ``write_header`` wrote it.
    """
    if FACTS_KEY in texts:
        return _read_facts(texts, partial(AdapterInvalid, source))
    made_for = MadeFor(
        family=(family := _family(texts)),
        stage=Stage.REFINER if family == "sdxl-refiner" else Stage.BASE,
        prediction_type=_PREDICTIONS.get(texts.get("modelspec.prediction_type", "")),
        zero_snr=_TRUTHS.get(texts.get("ss_zero_terminal_snr", "")),
        timestep_range=_timestep_range(texts.get("modelspec.timestep_range", "")),
    )
    words = texts.get("modelspec.trigger_phrase", "").split(",")
    return KohyaHeader(
        made_for=made_for,
        trigger_words=tuple(word.strip() for word in words if word.strip()),
        metadata=_carried(texts, leaving_out=_OF_THE_FILE),
        layout=_LAYOUTS.get(family or ""),
        is_exact=False,
    )


def write_header(adapter: Adapter, layout: BlockLayout) -> dict[str, str]:
    """Return the header's texts for ``adapter``, written with sgm's blocks counted by ``layout``.

    What the adapter carried is kept; what other programs look for is added where it is missing.
    """
    added = {key: text for key, text in _for_others(adapter).items() if key not in adapter.metadata}
    facts = {
        "version": _VERSION,
        "made_for": made_for_to_plain(adapter.made_for),
        "trigger_words": list(adapter.trigger_words),
        "layers_per_block": layout.layers_per_block,
        "added": sorted(added),
    }
    return {**adapter.metadata, **added, FACTS_KEY: canonical_bytes(facts).decode()}


def layout_of(family: str | None, *, is_refiner: bool) -> BlockLayout:
    """Return the layout of ``family``'s UNet, or the one most likely where it is not known."""
    likely = REFINER_LAYOUT if is_refiner else SDXL_LAYOUT
    return likely if family is None else _LAYOUTS.get(family, SDXL_LAYOUT)


def _read_facts(texts: Mapping[str, str], refuse: Refuse) -> KohyaHeader:
    facts = parse_json(texts[FACTS_KEY], refuse)
    match facts:
        case {
            "version": int(version),
            "made_for": dict(made_for),
            "trigger_words": list(words),
            "layers_per_block": int(num_layers),
            "added": list(added),
        } if version == _VERSION and all(isinstance(text, str) for text in (*words, *added)):
            return KohyaHeader(
                made_for=made_for_from_plain(made_for, refuse),
                trigger_words=tuple(words),
                metadata=_carried(texts, leaving_out={FACTS_KEY, *added}),
                layout=BlockLayout(layers_per_block=num_layers) if num_layers > 0 else None,
                is_exact=True,
            )
    raise refuse(f"has {FACTS_KEY} {texts[FACTS_KEY]!r:.80}, which this version did not write")


def _carried(texts: Mapping[str, str], leaving_out: frozenset[str] | set[str]) -> Mapping[str, str]:
    return MappingProxyType({key: text for key, text in texts.items() if key not in leaving_out})


def _family(texts: Mapping[str, str]) -> str | None:
    architecture = texts.get("modelspec.architecture", "").removesuffix("/lora")
    said = architecture or texts.get("ss_base_model_version", "")
    return _FAMILIES.get(said, said) or None


def _timestep_range(text: str) -> tuple[int, int] | None:
    """Return first and last timestep of kohya's "min,max", where max itself was not trained."""
    match = _TIMESTEPS.fullmatch(text)
    if match is None:
        return None
    first, end = int(match[1]), int(match[2])
    return (first, max(end - 1, first)) if first <= end else None


def _for_others(adapter: Adapter) -> dict[str, str]:
    """Return what other programs look for in a header, as far as ``adapter`` says it."""
    made_for = adapter.made_for
    ranks = {low_rank.rank for low_rank in adapter.targets.values()}
    alphas = {low_rank.alpha for low_rank in adapter.targets.values()}
    texts = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
    }
    architecture = _ARCHITECTURES.get(made_for.family or "")
    if architecture:
        texts |= {"modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": architecture}
    if made_for.family == "sdxl-base":
        texts["ss_base_model_version"] = "sdxl_base_v1-0"
    if made_for.prediction_type in {"epsilon", "v_prediction"}:
        texts["modelspec.prediction_type"] = made_for.prediction_type.removesuffix("_prediction")
    if made_for.zero_snr is not None:
        texts["ss_zero_terminal_snr"] = str(made_for.zero_snr)
    if made_for.timestep_range is not None:
        first, last = made_for.timestep_range
        texts["modelspec.timestep_range"] = f"{first},{last + 1}"
    if adapter.trigger_words:
        texts["modelspec.trigger_phrase"] = ", ".join(adapter.trigger_words)
    return texts
