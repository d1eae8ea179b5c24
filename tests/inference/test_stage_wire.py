"""A stage's open fields become its expert's defaults."""

import math

from diptych.inference.hosted import Hosted
from diptych.inference.stage_wire import stage_settings
from diptych.rpc.violations import Violations
from diptych.v1.types_pb2 import ScheduleInterval, StageSettings


def refused(hosted: Hosted, **fields: object) -> list[str]:
    found = Violations()
    message = StageSettings(**{"prompt": "a star"} | fields)  # type: ignore[arg-type]
    stage_settings(message, hosted.need_base(), "base", hosted.limits, found)
    return [violation.field for violation in found.found]


def test_absent_scale_is_the_experts(hosted: Hosted) -> None:
    message = StageSettings(prompt="a star")
    stage = stage_settings(message, hosted.need_base(), "base", hosted.limits, Violations())
    assert stage.guidance_scale == hosted.need_base().guidance_scale


def test_score_that_the_expert_would_ignore_is_refused(hosted: Hosted) -> None:
    assert refused(hosted, aesthetic_score=6.0) == ["base.aesthetic_score"]


def test_interval_that_ends_before_it_starts_is_refused(hosted: Hosted) -> None:
    interval = ScheduleInterval(start=0.8, end=0.2)
    assert refused(hosted, guidance_interval=interval) == ["base.guidance_interval"]


def test_every_violation_is_told(hosted: Hosted) -> None:
    fields = refused(hosted, prompt=" ", guidance_scale=math.nan, guidance_rescale=2.0)
    assert fields == ["base.prompt", "base.guidance_scale", "base.guidance_rescale"]
