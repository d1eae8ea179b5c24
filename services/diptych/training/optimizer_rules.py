"""Which optimizers, schedules and options go together: an option without effect is refused."""

from collections.abc import Iterator, Mapping
from typing import Final

from diptych.errors import FieldViolation
from diptych.training.spec import LrScheduleSpec, OptimizerSpec

__all__ = [
    "POLYNOMIAL_END",
    "learning_rate_of",
    "lr_schedule_violations",
    "optimizer_violations",
]

POLYNOMIAL_END: Final = 1e-7
"""The learning rate at which diffusers' polynomial schedule ends."""

_HAS_BETAS = frozenset(
    {"adamw", "adamw_8bit", "lion", "prodigy", "schedule_free_adamw", "stable_adamw"}
)
_HAS_EPS = _HAS_BETAS - {"lion"}
_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "constant": frozenset(),
    "constant_with_warmup": frozenset({"num_warmup_steps"}),
    "linear": frozenset({"num_warmup_steps"}),
    "cosine": frozenset({"num_warmup_steps"}),
    "cosine_with_restarts": frozenset({"num_warmup_steps", "num_cycles"}),
    "polynomial": frozenset({"num_warmup_steps", "power"}),
}
"""What each learning-rate schedule has."""


def learning_rate_of(spec: OptimizerSpec, own: float | None = None) -> float:
    """Return a parameter group's learning rate.

    Args:
        spec: The optimizer, whose learning rate is that of groups without one.
        own: The group's.
    """
    if own is not None:
        return own
    if spec.learning_rate is not None:
        return spec.learning_rate
    return 1.0 if spec.name == "prodigy" else 1e-4


def optimizer_violations(
    spec: OptimizerSpec,
    lr_schedule: LrScheduleSpec,
    group_lrs: Mapping[str, float | None],
    *,
    has_ema: bool = False,
) -> list[FieldViolation]:
    """Return everything that is wrong with an optimizer; none when it can be made.

    Args:
        spec: The optimizer.
        lr_schedule: How its learning rate changes.
        group_lrs: By the field that says it, as ``text_encoders.learning_rate``, or by the
            group's name: each parameter group's own learning rate, None where it has none.
        has_ema: Whether the job keeps a moving average of its weights.
    """
    found = [
        *_unused_options(spec),
        *_prodigy_violations(spec, group_lrs),
        *_schedule_free_violations(spec, lr_schedule, has_ema=has_ema),
        *_polynomial_violations(spec, lr_schedule),
    ]
    return [FieldViolation(field=field, description=said) for field, said in found]


def lr_schedule_violations(
    spec: LrScheduleSpec, num_steps: int | None = None
) -> list[FieldViolation]:
    """Return everything that is wrong with a learning-rate schedule.

    Args:
        spec: The schedule.
        num_steps: Of the whole training; None where it is not known yet, which checks less.
    """
    plain, found = LrScheduleSpec(), []
    for name in ("num_warmup_steps", "num_cycles", "power"):
        value = getattr(spec, name)
        if value != getattr(plain, name) and name not in _OPTIONS[spec.name]:
            found.append((name, f"is {value}, and the schedule {spec.name} has no such option"))
    if num_steps is not None and spec.num_warmup_steps >= num_steps:
        found.append(("num_warmup_steps", f"{spec.num_warmup_steps} of {num_steps} steps in all"))
    return [FieldViolation(field=f"lr_schedule.{name}", description=said) for name, said in found]


def _unused_options(spec: OptimizerSpec) -> Iterator[tuple[str, str]]:
    if spec.betas is not None and spec.name not in _HAS_BETAS:
        yield "optimizer.betas", f"{spec.name} has none"
    if spec.eps is not None and spec.name not in _HAS_EPS:
        yield "optimizer.eps", f"{spec.name} has none"


def _prodigy_violations(
    spec: OptimizerSpec, group_lrs: Mapping[str, float | None]
) -> Iterator[tuple[str, str]]:
    """Prodigy estimates one step size for all parameters; prodigyopt raises where they differ."""
    if spec.name != "prodigy":
        return
    common = learning_rate_of(spec)
    for field, own in group_lrs.items():
        if own is not None and own != common:
            yield field, f"prodigy has one learning rate for all, {common:g}, not {own:g} for some"


def _schedule_free_violations(
    spec: OptimizerSpec, lr_schedule: LrScheduleSpec, *, has_ema: bool
) -> Iterator[tuple[str, str]]:
    if spec.name != "schedule_free_adamw":
        return
    if lr_schedule.name not in ("constant", "constant_with_warmup"):
        yield (
            "lr_schedule.name",
            f"{spec.name} needs constant or constant_with_warmup, not {lr_schedule.name}",
        )
    if spec.betas is not None and spec.betas[0] == 0.0:
        yield "optimizer.betas", f"the first is 0, with which {spec.name} has no average"
    if has_ema:
        yield "run.ema", f"{spec.name} keeps an average of its own, which is what is exported"


def _polynomial_violations(
    spec: OptimizerSpec, lr_schedule: LrScheduleSpec
) -> Iterator[tuple[str, str]]:
    if lr_schedule.name == "polynomial" and learning_rate_of(spec) <= POLYNOMIAL_END:
        yield "optimizer.learning_rate", f"polynomial falls to {POLYNOMIAL_END:g}, which is no less"
