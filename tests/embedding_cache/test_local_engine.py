"""The local engine: many processes share the work, and a killed one costs what it had in hand."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from typing_extensions import override

from diptych.digest import Digest
from diptych.embedding_cache.claims import NoClaims
from diptych.embedding_cache.local_engine import EngineConfig, LocalEngine, problem_of
from diptych.embedding_cache.needs import Need
from diptych.embedding_cache.ports import Encoding, PromptWish, Stage, WarmStore
from diptych.embedding_cache.tally import Tally
from diptych.embeddings.key import Preprocessing, PromptRecord
from diptych.errors import (
    EmbeddingInvalid,
    ImageInvalid,
    QueueFull,
    RequestCancelled,
    StoreFull,
)
from support.warming import (
    SHARD,
    HashEncoding,
    Noted,
    a_dataset,
    a_store,
    a_warmer,
    encoders_of,
    encodes,
    needs_in,
    packed,
    warmed,
)

WARMING = Path(__file__).parents[1] / "support" / "warming.py"
NUM_KILLED = 2
NUM_IN_HAND = 2 * SHARD
"""Entries that one process has under way at once."""


def begun(stack: ExitStack, home: Path, encoder: str) -> subprocess.Popen[str]:
    """Start a process that warms up, as soon as it is told to."""
    command = [sys.executable, str(WARMING), str(home), str(home / "notes"), encoder]
    paths = [str(WARMING.parents[2] / "services"), str(WARMING.parents[1])]
    process = subprocess.Popen(
        [*command, str(home / "manifest.yaml")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(paths), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    stack.enter_context(process)
    stack.callback(process.kill)
    return process


def told(process: subprocess.Popen[str]) -> Iterator[tuple[int, int]]:
    """Yield how many embeddings are done as a process sees it, and how many there are."""
    assert process.stdout is not None
    for line in process.stdout:
        done, total, *_ = map(int, line.split())
        yield done, total


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def share(home: Path, encoder: str, *, num_processes: int, num_images: int) -> None:
    """Warm up in several processes, and kill two of them half-way."""
    (home / "manifest.yaml").write_text(a_dataset(home, num_images))
    with ExitStack() as stack:
        processes = [begun(stack, home, encoder) for _ in range(num_processes)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            go(process)
        for process in processes[:NUM_KILLED]:
            next(done for done, total in told(process) if 2 * done >= total)
            process.kill()
        for process in processes[NUM_KILLED:]:
            *_, (done, total) = told(process)
            assert done == total == 2 * num_images
            assert process.wait(60) == 0


def check(home: Path, encoder: str, *, num_killed: int) -> None:
    """Check that every entry is there once, as a fresh encode has it, and what was made twice."""
    manifest = (home / "manifest.yaml").read_text()
    with encoders_of(home, encoder) as encodings, a_store(home) as store:
        needs = needs_in(home, manifest, {Stage.BASE: encodings[Stage.BASE]}).needs
        for need in needs:
            assert store.tiers.get(need.key, kind="any") == fresh(need, encodings, home)
    assert packed(home) == {need.key.hex: 1 for need in needs}
    counts = encodes(home / "notes")
    assert counts.keys() == {need.key.hex for need in needs}
    assert max(counts.values()) <= 2
    assert counts.total() - len(counts) <= num_killed * NUM_IN_HAND


def fresh(need: Need, encodings: Mapping[Stage, Encoding], home: Path) -> bytes:
    """Return an embedding as it is encoded now."""
    encoding = encodings[Stage.BASE]
    if isinstance(need.record, PromptRecord):
        return encoding.encode_prompt(need.record).result()
    files = {Digest.of_file(path): path for path in (home / "in").glob("*.png")}
    return encoding.encode_image(need.record, files[need.record.image].read_bytes()).result()


def test_processes_share_a_dataset_and_outlive_those_that_are_killed(tmp_path: Path) -> None:
    share(tmp_path, "hash", num_processes=4, num_images=60)
    check(tmp_path, "hash", num_killed=NUM_KILLED)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_eight_processes_share_the_nano_pairs_encoders_and_two_are_killed(tmp_path: Path) -> None:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the processes have it: sums depend on it
    share(tmp_path, "nano", num_processes=8, num_images=100)
    check(tmp_path, "nano", num_killed=NUM_KILLED)
    torch.set_num_threads(num_threads)


def test_killed_warm_up_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "manifest.yaml").write_text(a_dataset(tmp_path, 24))
    with ExitStack() as stack:
        process = begun(stack, tmp_path, "hash")
        go(process)
        assert process.stdout is not None
        process.stdout.readline()
        next(done for done, total in told(process) if 2 * done >= total)
        process.kill()
    before = packed(tmp_path)
    encodings = {Stage.BASE: Noted(HashEncoding(), tmp_path / "notes")}
    with a_warmer(tmp_path, encodings) as (warmer, _):
        outcome = warmed(warmer, (tmp_path / "manifest.yaml").read_text())
    assert outcome.num_present == len(before) >= outcome.num_total // 2
    assert outcome.num_encoded == outcome.num_total - len(before)
    check(tmp_path, "hash", num_killed=1)


class Refusing(HashEncoding):
    """Refuses every other work because too much waits, and one text for good."""

    def __init__(self, bad: str = "") -> None:
        super().__init__()
        self.num_asked = 0
        self.bad = bad

    @override
    def encode_prompt(self, record: PromptRecord) -> Future[bytes]:
        self.num_asked += 1
        if self.num_asked % 2:
            raise QueueFull(waiting=1, limit=1, retry_after_s=0.001)
        if record.text == self.bad:
            return self.thread.submit(self._refuse)
        return super().encode_prompt(record)

    def _refuse(self) -> bytes:
        raise EmbeddingInvalid("it is not finite")


class FullStore:
    """Holds nothing and has no room."""

    def locate(self, keys: Sequence[Digest]) -> dict[Digest, str]:
        del keys
        return {}

    def count(self, tier: str | None, *, kind: str) -> None:
        pass

    def write(self, key: Digest, value: bytes) -> bool:
        del key, value
        return True

    def flush(self) -> None:
        raise StoreFull(location="here", size_bytes=1)

    def refresh(self) -> None:
        pass

    def hold(self, name: str, keys: Sequence[Digest]) -> None:
        pass


class NoImages:
    def read(self, need: Need) -> bytes:
        raise ImageInvalid(need.dataset, "is no picture")

    def name(self, need: Need) -> str:
        return need.key.hex


def some_needs(num_texts: int, encoding: HashEncoding) -> list[Need]:
    records = [encoding.prompt_record(PromptWish(text=f"text {n}")) for n in range(num_texts)]
    return [Need(key=one.key(), record=one, stage=Stage.BASE, dataset="one") for one in records]


def run(encoding: HashEncoding, store: WarmStore, needs: Sequence[Need]) -> Tally:
    tally = Tally(len(needs), lambda *_: None)
    engine = LocalEngine({Stage.BASE: encoding}, store, config=EngineConfig(shard_entries=SHARD))
    engine.encode(needs, images=NoImages(), claims=NoClaims(), tally=tally, go_on=lambda: None)
    return tally


def test_device_that_has_no_room_is_asked_again(tmp_path: Path) -> None:
    encoding = Refusing()
    with a_store(tmp_path) as store:
        assert run(encoding, store, some_needs(9, encoding)).num_encoded == 9


def test_what_cannot_be_encoded_is_a_finding_and_its_neighbours_are_made(tmp_path: Path) -> None:
    encoding = Refusing(bad="text 3")
    needs = some_needs(9, encoding)
    with a_store(tmp_path) as store:
        tally = run(encoding, store, needs)
    assert tally.num_encoded == 8
    assert tally.failures == [(needs[3].key.hex, problem_of(EmbeddingInvalid("it is not finite")))]


def test_image_that_cannot_be_read_is_a_finding(tmp_path: Path) -> None:
    encoding = HashEncoding()
    square = Preprocessing(resized=(64, 64), crop=(0, 0, 64, 64))
    record = encoding.image_record(Digest.of_bytes(b"image"), square)
    image = Need(key=record.key(), record=record, stage=Stage.BASE, dataset="one", place=0)
    with a_store(tmp_path) as store:
        tally = run(encoding, store, [*some_needs(2, encoding), image])
    assert (tally.num_encoded, tally.failures) == (2, [(image.key.hex, "is no picture")])


def test_store_without_room_ends_the_warm_up() -> None:
    encoding = HashEncoding()
    with pytest.raises(StoreFull):
        run(encoding, FullStore(), some_needs(9, encoding))


def test_caller_who_has_gone_ends_the_warm_up(tmp_path: Path) -> None:
    encoding = HashEncoding()
    needs = some_needs(9, encoding)

    def gone() -> None:
        raise RequestCancelled("warm-up")

    with a_store(tmp_path) as store, pytest.raises(RequestCancelled):
        LocalEngine({Stage.BASE: encoding}, store).encode(
            needs,
            images=NoImages(),
            claims=NoClaims(),
            tally=Tally(len(needs), lambda *_: None),
            go_on=gone,
        )
    assert packed(tmp_path) == {}
