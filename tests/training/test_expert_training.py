"""One expert of a job put together: what it is told of its model and of the run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from diptych.clients.config import ClientConfig
from diptych.clients.embedding_cache import EmbeddingCacheClient
from diptych.rpc.channel import ChannelConfig
from diptych.training import expert_training, feeding
from support.jobs import a_session, a_task, an_attempt, events_of, nano_cache, run_session


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with nano_cache(tmp_path_factory.mktemp("cache")) as address:
        yield address


def test_text_encoders_are_trained_without_embeddings_of_texts(cache: str, tmp_path: Path) -> None:
    task = a_task(
        tmp_path, cache, run={"num_steps": 2}, text_encoders={"method": "lora", "rank": 2}
    )
    folder = an_attempt(task)
    assert a_session(task, folder).run().ending == "succeeded"
    (told,) = [one for one in events_of(folder, "progress") if one["step"] == 2]
    assert told["lr"].keys() == {"unet", "text_encoder", "text_encoder_2"}  # type: ignore[attr-defined]


def test_what_was_prepared_is_told(cache: str, tmp_path: Path) -> None:
    task = a_task(tmp_path, cache, run={"num_epochs": 2, "num_steps": None})
    folder = an_attempt(task)
    a_session(task, folder).run()
    (told,) = events_of(folder, "prepared")
    assert (told["expert"], told["num_steps"]) == ("single", 6)
    assert isinstance(told["num_parameters"], int)
    assert told["num_parameters"] > 0
    with EmbeddingCacheClient(ClientConfig(channel=ChannelConfig(address=cache))) as client:
        assert client.encoders().keys() == {"base"}


@pytest.mark.parametrize("is_asked", [True, False])
def test_the_network_is_compiled_where_that_is_asked(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_asked: bool
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(expert_training, "compile_blocks", compiled.append)
    task = a_task(tmp_path, cache, run={"num_steps": 1, "compile": is_asked})
    assert run_session(task).ending == "succeeded"
    assert len(compiled) == is_asked


@pytest.mark.parametrize("num_workers", [0, 3])
def test_as_many_threads_read_ahead_as_are_asked_for(
    cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    pools: list[int] = []

    def pool(size: int, thread_name_prefix: str) -> ThreadPoolExecutor:
        pools.append(size)
        return ThreadPoolExecutor(size, thread_name_prefix)

    monkeypatch.setattr(feeding, "ThreadPoolExecutor", pool)
    task = a_task(tmp_path, cache, run={"num_steps": 1, "num_loader_workers": num_workers})
    assert run_session(task).ending == "succeeded"
    assert pools == ([num_workers] if num_workers else [])
