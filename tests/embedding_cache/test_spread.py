"""Work goes to the device with the least of it, whatever it was asked before."""

from collections.abc import Callable
from concurrent.futures import Future

from typing_extensions import override

from diptych.digest import Digest
from diptych.embedding_cache.ports import PromptWish
from diptych.embedding_cache.spread import Spread
from diptych.embeddings.key import ImageRecord, Preprocessing, PromptRecord
from support.warming import HashEncoding

SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))


class Held(HashEncoding):
    """Keeps what it is asked until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Future[bytes]] = []

    @override
    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        del record
        self.held.append(Future())
        return self.held[-1]

    @override
    def encode_image(self, record: ImageRecord, data: bytes, *, label: str = "") -> Future[bytes]:
        del data, label
        return self.encode_prompt(record)  # type: ignore[arg-type]


def asked(spread: Spread) -> Callable[[], Future[bytes]]:
    record = spread.prompt_record(PromptWish(text="a"))
    return lambda: spread.encode_prompt(record)


def test_devices_share_the_work() -> None:
    devices = Held(), Held(), Held()
    ask = asked(Spread(devices))
    for _ in range(7):
        ask()
    assert sorted(len(device.held) for device in devices) == [2, 2, 3]


def test_device_that_is_quicker_gets_more() -> None:
    slow, quick = Held(), Held()
    ask = asked(Spread((slow, quick)))
    ask()
    for _ in range(5):
        ask()
        quick.held[-1].set_result(b"")
    assert (len(slow.held), len(quick.held)) == (1, 5)


def test_images_are_shared_too_and_records_are_the_first_ones() -> None:
    devices = Held(), Held()
    spread = Spread(devices)
    record = spread.image_record(Digest.of_bytes(b"a"), SQUARE)
    assert record == devices[0].image_record(Digest.of_bytes(b"a"), SQUARE)
    for _ in range(2):
        spread.encode_image(record, b"a")
    assert [len(device.held) for device in devices] == [1, 1]


def test_identities_are_the_first_ones() -> None:
    devices = Held(), Held()
    assert Spread(devices).identities == devices[0].identities
