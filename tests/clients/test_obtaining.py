"""A training worker gets embeddings as its dataset's mode says; only what is missing is made."""

from collections.abc import Iterator

import pytest

from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.obtaining import ImageWanted, ObtainMode, PromptWanted, Wanted, obtain
from diptych.digest import Digest
from diptych.embedding_cache.ports import Hosting, PromptWish, Stage
from diptych.embeddings.key import Preprocessing
from diptych.errors import DigestMismatch, EmbeddingMissing
from support.cache_server import cache_server
from support.embedding_stores import FakeEncoding, FakeStore

SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))
CLAIMED = Digest.of_bytes(b"another encoder's")


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def encoding() -> Iterator[FakeEncoding]:
    encoding = FakeEncoding()
    yield encoding
    encoding.threads.shutdown()


@pytest.fixture
def client(store: FakeStore, encoding: FakeEncoding) -> Iterator[EmbeddingCacheClient]:
    hosting = Hosting(encodings={Stage.BASE: encoding}, store_of=lambda _: store)
    with cache_server(hosting) as config, EmbeddingCacheClient(config) as client:
        yield client


@pytest.fixture
def wanted(encoding: FakeEncoding) -> list[Wanted]:
    """Return six texts and an image."""
    texts = [f"text {number}" for number in range(6)]
    found: list[Wanted] = [
        PromptWanted(key=encoding.prompt_record(PromptWish(text=text)).key(), text=text)
        for text in texts
    ]
    record = encoding.image_record(Digest.of_bytes(b"file"), SQUARE)
    return [
        *found,
        ImageWanted(key=record.key(), preprocessing=SQUARE, read=lambda: b"file", label="a"),
    ]


@pytest.mark.parametrize("mode", ["read_through", "on_demand"])
def test_what_is_missing_is_encoded_and_kept(
    mode: ObtainMode,
    client: EmbeddingCacheClient,
    wanted: list[Wanted],
    store: FakeStore,
    encoding: FakeEncoding,
) -> None:
    some = obtain(client, wanted[:2], mode=mode)
    found = obtain(client, wanted, mode=mode)
    assert found.keys() == {one.key for one in wanted} == store.values.keys()
    assert some.items() <= found.items()
    assert encoding.num_encoded == len(wanted)


def test_read_only_encodes_nothing(
    client: EmbeddingCacheClient, wanted: list[Wanted], encoding: FakeEncoding
) -> None:
    obtain(client, wanted[:2])
    with pytest.raises(EmbeddingMissing):
        obtain(client, wanted, mode="read_only")
    assert obtain(client, wanted[:2], mode="read_only").keys() == {one.key for one in wanted[:2]}
    assert encoding.num_encoded == 2


def test_bypass_encodes_anew_and_keeps_nothing(
    client: EmbeddingCacheClient, wanted: list[Wanted], store: FakeStore, encoding: FakeEncoding
) -> None:
    for _ in range(2):
        assert obtain(client, wanted, mode="bypass").keys() == {one.key for one in wanted}
    assert store.values == {}
    assert encoding.num_encoded == 2 * len(wanted)


def test_encoders_that_are_not_the_keys_are_told(client: EmbeddingCacheClient) -> None:
    with pytest.raises(DigestMismatch):
        obtain(client, [PromptWanted(key=CLAIMED, text="text")])


def test_files_are_read_only_where_they_must_be_encoded(
    client: EmbeddingCacheClient, wanted: list[Wanted]
) -> None:
    obtain(client, wanted)
    image = wanted[-1]
    assert isinstance(image, ImageWanted)
    unread = ImageWanted(key=image.key, preprocessing=SQUARE, read=lambda: pytest.fail("read"))
    assert obtain(client, [unread]).keys() == {image.key}
