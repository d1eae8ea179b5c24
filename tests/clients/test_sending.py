"""What goes wrong in making a message is kept for whoever sends them."""

from collections.abc import Iterator

import pytest

from diptych.clients.sending import Sending
from diptych.errors import ImageInvalid


def messages() -> Iterator[int]:
    yield 1
    raise ImageInvalid("a.png", "is cut")


def test_keeps_what_its_messages_raise() -> None:
    sending = Sending(messages())
    with pytest.raises(ImageInvalid):
        list(sending)
    assert isinstance(sending.problem, ImageInvalid)


def test_has_no_problem_while_all_goes_well() -> None:
    sending = Sending(iter([1, 2]))
    assert list(sending) == [1, 2]
    assert sending.problem is None
