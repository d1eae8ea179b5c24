"""A value that no message holds is refused by its name."""

import pytest

from diptych.clients.message_fields import INT32, chosen, integer
from diptych.errors import InvalidRequest


def test_choice_is_looked_up() -> None:
    assert chosen("stage", "base", {None: 0, "base": 1}) == 1


def test_unknown_choice_names_field_and_choices() -> None:
    with pytest.raises(InvalidRequest, match="stage: 'bose' is none of base"):
        chosen("stage", "bose", {None: 0, "base": 1})


@pytest.mark.parametrize("value", [-INT32, INT32 - 1])
def test_integer_within_its_bits_is_taken(value: int) -> None:
    assert integer("rank", value, INT32) == value


@pytest.mark.parametrize("value", [-INT32 - 1, INT32])
def test_integer_beyond_its_bits_is_refused(value: int) -> None:
    with pytest.raises(InvalidRequest, match=f"rank: {value} is not in"):
        integer("rank", value, INT32)
