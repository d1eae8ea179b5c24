"""What an adapter was made for, as the plain map that headers carry."""

from collections.abc import Mapping

from diptych.adapters.adapter import MadeFor, Stage
from diptych.storage.tensor_header import Refuse

__all__ = ["made_for_from_plain", "made_for_to_plain"]

_TEXTS = ("family", "base_fingerprint", "prediction_type")
_FIELDS = {*_TEXTS, "stage", "zero_snr", "timestep_range"}


def made_for_to_plain(made_for: MadeFor) -> dict[str, object]:
    """Return ``made_for`` as a map of plain values that leaves out what is not known."""
    timesteps = made_for.timestep_range
    plain: dict[str, object] = {
        "family": made_for.family,
        "base_fingerprint": made_for.base_fingerprint,
        "stage": str(made_for.stage),
        "prediction_type": made_for.prediction_type,
        "zero_snr": made_for.zero_snr,
        "timestep_range": None if timesteps is None else list(timesteps),
    }
    return {name: value for name, value in plain.items() if value is not None}


def made_for_from_plain(plain: Mapping[str, object], refuse: Refuse) -> MadeFor:
    """Return what ``made_for_to_plain`` was given.

    Raises:
        DiptychError: ``refuse``'s, when a field is unknown or not of its kind; it is named.
    """
    unknown = sorted(plain.keys() - _FIELDS)
    if unknown:
        raise refuse(f"is made for {unknown[0]!r:.80}, which is not known")
    texts = {name: _text(plain, name, refuse) for name in _TEXTS}
    stage = plain.get("stage", Stage.BASE)
    if not isinstance(stage, str) or stage not in set(Stage):
        raise refuse(f"is made for stage {stage!r:.80}, expected base, refiner or both")
    zero_snr = plain.get("zero_snr")
    if not isinstance(zero_snr, bool | None):
        raise refuse(f"is made for zero_snr {zero_snr!r:.80}, expected true or false")
    return MadeFor(
        family=texts["family"],
        base_fingerprint=texts["base_fingerprint"],
        prediction_type=texts["prediction_type"],
        stage=Stage(stage),
        zero_snr=zero_snr,
        timestep_range=_timestep_range(plain.get("timestep_range"), refuse),
    )


def _text(plain: Mapping[str, object], name: str, refuse: Refuse) -> str | None:
    value = plain.get(name)
    if isinstance(value, str | None):
        return value
    raise refuse(f"is made for {name} {value!r:.80}, expected a text")


def _timestep_range(value: object, refuse: Refuse) -> tuple[int, int] | None:
    match value:
        case None:
            return None
        case [int(first), int(last)] if 0 <= first <= last < 2**31:
            return first, last
    raise refuse(f"is made for timesteps {value!r:.80}, expected first and last")
