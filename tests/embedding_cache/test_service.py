"""The service over loopback: encodes once, hands out, refuses by name and leaves nothing behind."""

import asyncio
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from diptych.clients.async_embedding_cache import AsyncEmbeddingCacheClient
from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.clients.embedding_values import ImageInput, ImagesCall, PromptsCall, WarmCall
from diptych.digest import Digest
from diptych.embeddings.entry import read_entry
from diptych.embeddings.key import Preprocessing
from diptych.errors import (
    EmbeddingInvalid,
    EmbeddingMissing,
    ExpertMissing,
    ImageInvalid,
    InvalidRequest,
    PromptTooLong,
)
from diptych.v1 import embedding_cache_pb2 as pb
from diptych.v1.embedding_cache_pb2_grpc import EmbeddingCacheServiceStub
from support.embedding_stores import FakeEncoding, FakeStore

SQUARE = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))
RED = PromptsCall(prompts=["red"])
OTHER = Digest.of_bytes(b"other")


def an_entry(client: EmbeddingCacheClient, text: str = "red") -> tuple[Digest, bytes]:
    (one,) = client.encode_prompts(PromptsCall(prompts=[text], return_values=True))
    assert one.value is not None
    return one.key, one.value


def test_missing_prompt_is_encoded(client: EmbeddingCacheClient) -> None:
    (one,) = client.encode_prompts(RED)
    assert (one.source, one.value) == ("encoded", None)


def test_same_prompt_is_not_encoded_again(
    client: EmbeddingCacheClient, encoding: FakeEncoding
) -> None:
    client.encode_prompts(RED)
    (one,) = client.encode_prompts(RED)
    assert (one.source, encoding.num_encoded) == ("memory", 1)


def test_equal_prompts_of_one_call_have_one_value(client: EmbeddingCacheClient) -> None:
    first, second = client.encode_prompts(PromptsCall(prompts=["a", "a"], return_values=True))
    assert first == second
    assert first.value is not None


def test_absent_prompt_is_not_the_empty_one(client: EmbeddingCacheClient) -> None:
    absent, empty = client.encode_prompts(PromptsCall(prompts=[None, ""]))
    assert absent.key != empty.key


def test_values_are_entries(client: EmbeddingCacheClient) -> None:
    assert read_entry(an_entry(client)[1]).kind == "prompt"


def test_every_long_prompt_is_named(client: EmbeddingCacheClient) -> None:
    with pytest.raises(PromptTooLong, match=r"prompts\[2\]\.text"):
        client.encode_prompts(PromptsCall(prompts=["x" * 99, "ok", "y" * 99]))


def test_read_only_call_names_what_is_missing(
    client: EmbeddingCacheClient, encoding: FakeEncoding
) -> None:
    with pytest.raises(EmbeddingMissing):
        client.encode_prompts(replace(RED, mode="read_only"))
    assert encoding.num_encoded == 0


def test_bypass_returns_values_and_keeps_nothing(
    client: EmbeddingCacheClient, store: FakeStore
) -> None:
    (one,) = client.encode_prompts(replace(RED, mode="bypass"))
    assert one.value is not None
    assert store.values == {}


def test_stage_that_is_not_hosted_is_refused(client: EmbeddingCacheClient) -> None:
    with pytest.raises(ExpertMissing):
        client.encode_prompts(replace(RED, stage="refiner"))


def test_everything_wrong_with_a_call_is_named(client: EmbeddingCacheClient) -> None:
    with pytest.raises(InvalidRequest) as caught:
        client.encode_prompts(PromptsCall(prompts=["x" * 70_000], clip_skip=-1, min_windows=999))
    assert [violation.field for violation in caught.value.violations] == [
        "prompts[0].text",
        "prompts[0].clip_skip",
        "prompts[0].min_windows",
    ]


def test_call_that_no_message_holds_is_refused_by_its_field(client: EmbeddingCacheClient) -> None:
    with pytest.raises(InvalidRequest, match=r"prompts\[1\]\.text: \d+ bytes exceed the limit"):
        client.encode_prompts(PromptsCall(prompts=["a", "x" * 10_000_000]))
    with pytest.raises(InvalidRequest, match="manifest"):
        client.warm(WarmCall(manifest="x" * 10_000_000))
    label = ImageInput(data=b"x", preprocessing=SQUARE, label="x" * 10_000_000)
    with pytest.raises(InvalidRequest, match=r"image\.label"):
        client.encode_images(ImagesCall(images=[label]))


def test_servers_own_limit_of_a_message_is_told_as_such(config: ClientConfig) -> None:
    large = replace(config, channel=replace(config.channel, max_message_bytes=1 << 29))
    with (
        EmbeddingCacheClient(large) as client,
        pytest.raises(InvalidRequest, match="exceed the limit of 4194304 of one message"),
    ):
        client.encode_prompts(PromptsCall(prompts=["x" * 10_000_000]))


def test_images_are_encoded_in_order(client: EmbeddingCacheClient) -> None:
    images = [ImageInput(data=b"x" * n, preprocessing=SQUARE) for n in (3, 2 << 20, 5)]
    found = client.encode_images(ImagesCall(images=images, return_values=True))
    assert [one.source for one in found] == ["encoded"] * 3
    assert len({one.key for one in found}) == 3


def test_crop_is_another_key(client: EmbeddingCacheClient) -> None:
    crops = [SQUARE, replace(SQUARE, crop=(8, 0, 56, 64))]
    images = [ImageInput(data=b"x", preprocessing=crop) for crop in crops]
    first, second = client.encode_images(ImagesCall(images=images))
    assert first.key != second.key


def test_bad_image_fails_its_call_and_its_neighbour_stays(
    client: EmbeddingCacheClient, store: FakeStore
) -> None:
    images = [ImageInput(data=data, preprocessing=SQUARE) for data in (b"good", b"bad")]
    with pytest.raises(ImageInvalid, match="no picture"):
        client.encode_images(ImagesCall(images=images))
    assert len(store.values) <= 1


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"resized": (0, 64)}, "resized_width"),
        ({"resized": (99_999, 64)}, "resized_width"),
        ({"crop": (0, 0, 60, 64)}, "crop_width"),
        ({"crop": (8, 0, 64, 64)}, "crop"),
        ({"crop": (-8, 0, 64, 64)}, "crop"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(
    client: EmbeddingCacheClient, changed: dict[str, tuple[int, ...]], field: str
) -> None:
    image = ImageInput(data=b"x", preprocessing=replace(SQUARE, **changed))  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=f"images\\[0\\].preprocessing.{field}"):
        client.encode_images(ImagesCall(images=[image]))


def test_missing_keys_are_found(client: EmbeddingCacheClient) -> None:
    key, _ = an_entry(client)
    assert client.find_missing([OTHER, key]) == [OTHER]


def test_reads_what_is_there_and_names_what_is_not(client: EmbeddingCacheClient) -> None:
    key, value = an_entry(client)
    found = client.read([OTHER, key])
    assert next(found) == (key, value)
    with pytest.raises(EmbeddingMissing):
        next(found)


def test_reads_from_colder_tiers_too(client: EmbeddingCacheClient, store: FakeStore) -> None:
    entries = dict(an_entry(client, text) for text in "abcdefghijklmnopqrst")
    store.cold, store.values = store.values, {}
    assert dict(client.read(list(entries))) == entries


@pytest.mark.parametrize("count", [1, 8, 9])
def test_few_and_many_are_read_alike(
    count: int, client: EmbeddingCacheClient, store: FakeStore
) -> None:
    entries = {Digest.of_bytes(bytes([n])): bytes([n]) * (1 << 20) for n in range(count)}
    store.values, store.cold = dict(list(entries.items())[:3]), entries
    assert dict(client.read([*entries])) == entries


async def test_asyncio_client_reads_few_and_many(config: ClientConfig, store: FakeStore) -> None:
    entries = {Digest.of_bytes(bytes([n])): bytes([n]) * (1 << 20) for n in range(9)}
    store.cold, few = entries, list(entries)[:5]
    async with AsyncEmbeddingCacheClient(config) as client:
        assert {key: value async for key, value in client.read([*entries])} == entries
        assert [key async for key, _ in client.read(few)] == few
        with pytest.raises(EmbeddingMissing):
            [one async for one in client.read([OTHER, few[0]])]


def test_fetch_of_many_is_refused(config: ClientConfig) -> None:
    keys = [bytes([number]) * 32 for number in range(9)]
    with grpc.insecure_channel(config.channel.address) as channel, pytest.raises(grpc.RpcError):
        EmbeddingCacheServiceStub(channel).FetchEmbeddings(pb.FetchEmbeddingsRequest(keys=keys))


def test_reads_in_the_order_asked_for(client: EmbeddingCacheClient) -> None:
    keys = [an_entry(client, text)[0] for text in "abc"]
    wanted = [keys[2], keys[0], keys[2], keys[1]]
    assert [key for key, _ in client.read_in_order(wanted, batch_size=2)] == wanted


def test_writes_what_others_made(client: EmbeddingCacheClient, store: FakeStore) -> None:
    _, value = an_entry(client)
    written = client.write([(OTHER, value), (OTHER, value)])
    assert (written.num_written, written.num_present) == (1, 1)
    assert store.values[OTHER] == value


def test_write_of_no_entry_is_refused(client: EmbeddingCacheClient, store: FakeStore) -> None:
    with pytest.raises(EmbeddingInvalid):
        client.write([(OTHER, b"no safetensors")])
    assert OTHER not in store.values


def test_dry_run_drops_nothing(client: EmbeddingCacheClient, store: FakeStore) -> None:
    key, value = an_entry(client)
    evicted = client.evict([key, OTHER], dry_run=True)
    assert (evicted.num_evicted, evicted.evicted_bytes) == (1, len(value))
    assert key in store.values


def test_evicted_embedding_is_missing(client: EmbeddingCacheClient) -> None:
    key, _ = an_entry(client)
    client.evict([key])
    assert client.find_missing([key]) == [key]


def test_more_keys_than_a_call_takes_are_evicted_in_several(client: EmbeddingCacheClient) -> None:
    keys = [an_entry(client, text)[0] for text in "ab"]
    others = [Digest(hex=f"{number:064x}") for number in range(65_536)]
    evicted = client.evict([keys[0], *others, keys[1]])
    assert (evicted.num_evicted, evicted.num_kept) == (2, 0)
    assert client.find_missing(keys) == keys


def test_evicting_nothing_is_refused(client: EmbeddingCacheClient) -> None:
    with pytest.raises(InvalidRequest, match="0 keys"):
        client.evict([])


def test_stats_are_those_of_store_and_encoders(client: EmbeddingCacheClient) -> None:
    an_entry(client)
    stats = client.stats()
    assert (stats.tiers[0].tier, stats.tiers[0].num_entries, stats.num_damaged) == ("memory", 1, 5)
    assert (stats.encodings[0].num_encoded, stats.encodings[0].encode_s) == (1, 0.5)


async def test_asyncio_client_is_told_the_encoders_too(
    config: ClientConfig, encoding: FakeEncoding
) -> None:
    async with AsyncEmbeddingCacheClient(config) as client:
        assert await client.encoders() == {"base": encoding.identities}


async def test_thousand_askers_over_loopback_cause_fifty_encodes(
    config: ClientConfig, encoding: FakeEncoding
) -> None:
    async with AsyncEmbeddingCacheClient(config) as client:
        calls = [PromptsCall(prompts=[str(number % 50)]) for number in range(1000)]
        await asyncio.gather(*(client.encode_prompts(call) for call in calls))
    assert encoding.num_encoded == 50


def test_warming_without_datasets_is_refused(client: EmbeddingCacheClient) -> None:
    with pytest.raises(InvalidRequest, match="no dataset folder"):
        client.warm(WarmCall(manifest="a: 1"))


def test_bad_image_is_called_what_its_caller_calls_it(client: EmbeddingCacheClient) -> None:
    images = [
        ImageInput(data=data, preprocessing=SQUARE, label=label)
        for data, label in ((b"good", "a.png"), (b"bad", "b.png"))
    ]
    with pytest.raises(ImageInvalid, match=r"image b\.png: is no picture"):
        client.encode_images(ImagesCall(images=images))


def test_bad_image_without_a_name_is_called_by_its_place(client: EmbeddingCacheClient) -> None:
    images = [ImageInput(data=data, preprocessing=SQUARE) for data in (b"good", b"bad")]
    with pytest.raises(ImageInvalid, match=r"image images\[1\]: "):
        client.encode_images(ImagesCall(images=images))


def test_write_of_what_is_not_finite_is_refused(
    client: EmbeddingCacheClient, store: FakeStore
) -> None:
    _, value = an_entry(client)
    with pytest.raises(EmbeddingInvalid, match="not finite"):
        client.write([(OTHER, value[:-4] + struct.pack("<f", float("nan")))])
    assert OTHER not in store.values


def test_evicting_what_is_older_than_time_itself_is_no_fault(
    config: ClientConfig, store: FakeStore
) -> None:
    unneeded = pb.EvictUnneeded(older_than=Duration(seconds=2**62))
    request = pb.EvictEmbeddingsRequest(unneeded=unneeded, dry_run=True)
    with grpc.insecure_channel(config.channel.address) as channel:
        answer = EmbeddingCacheServiceStub(channel).EvictEmbeddings(request)
    assert answer.num_evicted == len(store.values)


def test_hit_in_memory_waits_for_no_bucket(client: EmbeddingCacheClient, store: FakeStore) -> None:
    key, _ = an_entry(client)
    store.gate.clear()
    try:
        with ThreadPoolExecutor(12) as pool:
            texts = [PromptsCall(prompts=[str(number)]) for number in range(12)]
            waiting = [pool.submit(client.encode_prompts, one) for one in texts]
            assert client.encode_prompts(RED, timeout_s=5.0)[0].source == "memory"
            assert dict(client.read([key], timeout_s=5.0)).keys() == {key}
            store.gate.set()
            assert all(one.result(20) for one in waiting)
    finally:
        store.gate.set()
