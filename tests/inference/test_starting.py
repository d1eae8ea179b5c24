"""What cannot start fails alone; the engine's tests show the rest."""

from diptych.errors import DiptychError, EngineFault, PromptTooLong
from diptych.inference.call import Call, Image
from diptych.inference.starting import Starting
from diptych.inference.trajectory import Started
from support.fake_device import FakeExecutor, FakeObserver, Mailbox, request


def call(name: str) -> tuple[Call, Mailbox]:
    mailbox, asked = Mailbox(), request(name)
    route = FakeExecutor().route(asked)
    return Call(request=asked, route=route, listener=mailbox, submitted_at=0, image_s=1.0), mailbox


def starting(failed: list[tuple[str, DiptychError]]) -> Starting:
    return Starting(
        executor=FakeExecutor(),
        observer=FakeObserver(),
        clock=lambda: 5.0,
        fail=lambda call, error: failed.append((call.request_id, error)),
    )


def test_prompts_that_fail_together_are_encoded_alone() -> None:
    failed: list[tuple[str, DiptychError]] = []
    calls = [call(name)[0] for name in ("a", "unencodable", "b")]
    starting(failed).encode(calls)
    assert [(name, type(error)) for name, error in failed] == [("unencodable", EngineFault)]
    assert [own.conditioning is not None for own in calls] == [True, False, True]
    assert [own.num_texts_cached for own in calls] == [1, 0, 1]


def test_a_long_prompt_fails_its_own_request() -> None:
    failed: list[tuple[str, DiptychError]] = []
    starting(failed).encode([call("long")[0], call("a")[0]])
    assert [(name, type(error)) for name, error in failed] == [("long", PromptTooLong)]


def test_the_first_image_placed_starts_the_call() -> None:
    own, mailbox = call("a")
    own.conditioning = FakeExecutor().encode([own.request])[0]  # type: ignore[assignment]
    images = [Image(call=own, number=n, index=n, slot=n) for n in range(2)]
    begins = starting([])
    assert [begins.place(image) for image in images] == [True, True]
    assert mailbox.events == [Started()]
