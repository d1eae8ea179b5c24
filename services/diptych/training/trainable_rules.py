"""Rules about what may be trained together; no torch: a job is checked before anything starts."""

from collections.abc import Iterator
from dataclasses import replace

from diptych.adapters.naming import check_name
from diptych.errors import FieldViolation, InvalidRequest
from diptych.training.spec import AdapterSpec, JobSpec

__all__ = ["trainable_violations"]


def trainable_violations(spec: JobSpec) -> list[FieldViolation]:
    """Return everything that a job says of what it trains and that cannot be so."""
    rules = (_regularisation(spec), _text_encoders(spec), _adapter(spec), _name(spec))
    return [violation for rule in rules for violation in rule]


def _regularisation(spec: JobSpec) -> Iterator[FieldViolation]:
    """A full fine-tune overwrites the model whose pictures it would be held to."""
    if spec.method != "full" and spec.text_encoders.method != "full":
        return
    for index, dataset in enumerate(spec.dataset.datasets):
        if dataset.kind == "regularisation" and not dataset.disabled:
            yield FieldViolation(
                field=f"dataset.datasets[{index}].kind",
                description="regularisation needs the model before training, which a full "
                "fine-tune does not keep; train lora or dora",
            )


def _text_encoders(spec: JobSpec) -> Iterator[FieldViolation]:
    method = spec.text_encoders.method
    if spec.method == "full" or method == "none":
        return
    if method == "full":
        description = f"full text encoders do not fit into an adapter, which {spec.method} makes"
        yield FieldViolation(field="text_encoders.method", description=description)


def _adapter(spec: JobSpec) -> Iterator[FieldViolation]:
    given = spec.adapter
    if spec.method == "full":
        if given != AdapterSpec():
            description = "a full fine-tune makes no adapter"
            yield FieldViolation(field="adapter", description=description)
    elif given.start_from is not None:
        plain = replace(AdapterSpec(), start_from=given.start_from, dropout=given.dropout)
        for name in _unlike(given, plain):
            yield FieldViolation(
                field=f"adapter.{name}",
                description="is the one of the adapter in start_from; leave it out",
            )


def _name(spec: JobSpec) -> Iterator[FieldViolation]:
    """Experts of both stages are called ``NAME/base`` and ``NAME/refiner``."""
    try:
        check_name(spec.name)
        if spec.stage == "both" and spec.method == "full":
            check_name(f"{spec.name}/refiner")
    except InvalidRequest as error:
        yield from error.violations


def _unlike(one: AdapterSpec, other: AdapterSpec) -> list[str]:
    names = ("rank", "alpha", "targets", "rank_pattern", "alpha_pattern", "rank_stabilised", "init")
    return [name for name in names if getattr(one, name) != getattr(other, name)]
