"""Whether an adapter was made for what runs here, as far as its card says.

What a card cannot tell, shapes, is seen when the adapter comes in and when it is loaded.
"""

from collections.abc import Iterator
from typing import Final

from diptych.adapters.card import AdapterCard
from diptych.adapters.naming import Stage
from diptych.errors import AdapterMismatch
from diptych.inference.hosted import Hosted, HostedExpert
from diptych.inference.trajectory import Expert

__all__ = ["acts_on", "check_card", "hosted_in_stage", "mismatch_of", "no_expert"]

STAGES: Final = {
    Stage.BASE: frozenset({Expert.BASE}),
    Stage.REFINER: frozenset({Expert.REFINER}),
    Stage.BOTH: frozenset(Expert),
}
KIN: Final = frozenset({"sdxl-base", "sdxl-turbo", "sdxl-lightning"})
"""Families of one architecture that adapters are used across: few-step students of the base."""


def acts_on(card: AdapterCard) -> frozenset[Expert]:
    """Return the experts that an adapter acts on."""
    return STAGES[card.stage]


def hosted_in_stage(card: AdapterCard, hosted: Hosted) -> list[HostedExpert]:
    """Return the experts of this server that an adapter acts on."""
    experts = [expert for expert in (hosted.base, hosted.refiner) if expert is not None]
    return [expert for expert in experts if expert.expert in acts_on(card)]


def mismatch_of(card: AdapterCard, expert: HostedExpert, *, name: str) -> AdapterMismatch | None:
    """Return what says that an adapter was not made for ``expert``, None if nothing does."""
    for field, made_for, used_on in _facts(card, expert):
        if made_for is not None and made_for != used_on:
            return AdapterMismatch(adapter=name, field=field, made_for=made_for, used_on=used_on)
    return None


def check_card(card: AdapterCard, hosted: Hosted, *, name: str) -> None:
    """Return if an adapter fits an expert of this server, as far as its card says.

    Raises:
        AdapterMismatch: It fits none.
    """
    experts = hosted_in_stage(card, hosted)
    if not experts:
        raise no_expert(card, hosted, name=name)
    problems = [mismatch_of(card, expert, name=name) for expert in experts]
    if None not in problems:
        assert problems[0] is not None
        raise problems[0]


def no_expert(card: AdapterCard, hosted: Hosted, *, name: str) -> AdapterMismatch:
    """Return the error for an adapter of experts that this server does not host."""
    here = [e.expert.value for e in (hosted.base, hosted.refiner) if e is not None]
    return AdapterMismatch(
        adapter=name, field="stage", made_for=card.stage.value, used_on=" and ".join(here)
    )


def _facts(card: AdapterCard, expert: HostedExpert) -> Iterator[tuple[str, str | None, str]]:
    is_kin = card.family in KIN and expert.family in KIN
    yield "family", expert.family if is_kin else card.family, expert.family
    yield "prediction type", card.prediction_type, expert.prediction_type
