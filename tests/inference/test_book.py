"""Who may come in."""

import numpy as np
import pytest

from diptych.errors import Draining, EngineFault, QueueFull
from diptych.inference.admission import CostModel
from diptych.inference.book import Book
from diptych.inference.route import Route
from diptych.inference.trajectory import Event, Expert, ImageRequest, Queued

ROUTE = Route(
    experts=(Expert.BASE,),
    num_rows=(1,),
    steps=(1,),
    num_steps=1,
    coefficients=np.zeros((1, 1), np.float32),
    needs_noise=(False,),
    start=(0.0, 1.0),
)


@pytest.fixture
def book() -> Book:
    return Book(costs=CostModel(), max_waiting=4, clock=lambda: 0.0)


def request(num_images: int = 1) -> ImageRequest:
    return ImageRequest(request_id="a", width=64, height=64, seed=1, num_images=num_images)


def test_tells_the_listener_its_place(book: Book) -> None:
    events: list[Event] = []
    book.enter(request(2), lambda event: None, ROUTE)
    book.enter(request(), events.append, ROUTE)
    assert isinstance(events[0], Queued)
    assert events[0].position == 2


def test_numbers_images_by_arrival(book: Book) -> None:
    calls = [book.enter(request(2), lambda event: None, ROUTE)[0] for _ in range(2)]
    assert [image.number for call in calls for image in call.images] == [0, 1, 2, 3]


def test_counts_images_without_a_slot(book: Book) -> None:
    call, _ = book.enter(request(3), lambda event: None, ROUTE)
    call.images[0].slot = 0
    assert book.num_waiting() == 2


def test_admits_all_images_or_none(book: Book) -> None:
    with pytest.raises(QueueFull):
        book.enter(request(5), lambda event: None, ROUTE)
    assert book.calls() == []


def test_refuses_while_draining(book: Book) -> None:
    book.close_door()
    with pytest.raises(Draining):
        book.enter(request(), lambda event: None, ROUTE)


def test_refuses_with_the_fault_that_ended_the_engine(book: Book) -> None:
    book.close_door(EngineFault("gone"))
    with pytest.raises(EngineFault, match="gone"):
        book.enter(request(), lambda event: None, ROUTE)


def test_is_empty_after_the_last_call(book: Book) -> None:
    calls = [book.enter(request(), lambda event: None, ROUTE)[0] for _ in range(2)]
    assert [book.remove(call) for call in calls] == [False, True]


def test_a_closed_book_opens_to_nobody(book: Book) -> None:
    book.close_door()
    with pytest.raises(Draining), book.open():
        pytest.fail("the book is closed")
