"""The settings of one expert, from their message: how it is conditioned and guided."""

from typing import Final, Literal

from diptych.inference.hosted import HostedExpert
from diptych.inference.limits import Limits
from diptych.inference.trajectory import StageSettings
from diptych.rpc.violations import Violations
from diptych.v1 import types_pb2

__all__ = ["stage_settings"]

MAX_AESTHETIC_SCORE: Final = 10.0
DEFAULT_SCORES: Final = {"aesthetic_score": 6.0, "negative_aesthetic_score": 2.5}


def stage_settings(
    message: types_pb2.StageSettings,
    expert: HostedExpert,
    path: str,
    limits: Limits,
    found: Violations,
) -> StageSettings:
    """Return how one expert is conditioned; ``path`` is the stage's field in its request."""
    negative = message.negative_prompt if message.HasField("negative_prompt") else None
    if negative is not None:
        found.text(f"{path}.negative_prompt", negative, limits.max_prompt_bytes)
    scale = message.guidance_scale if message.HasField("guidance_scale") else expert.guidance_scale
    interval = (0.0, 1.0)
    if message.HasField("guidance_interval"):
        interval = _interval(message.guidance_interval, f"{path}.guidance_interval", found)
    return StageSettings(
        prompt=found.text(f"{path}.prompt", message.prompt, limits.max_prompt_bytes, required=True),
        negative_prompt=negative,
        guidance_scale=found.number(
            f"{path}.guidance_scale", scale, 0.0, limits.max_guidance_scale
        ),
        guidance_rescale=found.number(
            f"{path}.guidance_rescale", message.guidance_rescale, 0.0, 1.0
        ),
        guidance_interval=interval,
        aesthetic_score=_score(message, "aesthetic_score", expert, path, found),
        negative_aesthetic_score=_score(message, "negative_aesthetic_score", expert, path, found),
    )


def _score(
    message: types_pb2.StageSettings,
    name: Literal["aesthetic_score", "negative_aesthetic_score"],
    expert: HostedExpert,
    path: str,
    found: Violations,
) -> float:
    """Return an aesthetic score, refusing one that the expert would ignore."""
    if not message.HasField(name):
        return DEFAULT_SCORES[name]
    field = f"{path}.{name}"
    if not expert.takes_aesthetic_score:
        found.add(field, f"the {expert.family} expert takes none; leave it out")
    return found.number(field, getattr(message, name), 0.0, MAX_AESTHETIC_SCORE)


def _interval(
    message: types_pb2.ScheduleInterval, path: str, found: Violations
) -> tuple[float, float]:
    """Return (start, end) of the part of the schedule in which guidance acts."""
    start = found.number(f"{path}.start", message.start, 0.0, 1.0)
    end = found.number(f"{path}.end", message.end, 0.0, 1.0)
    if start > end:
        found.add(path, f"start {start} exceeds end {end}")
    return start, end
