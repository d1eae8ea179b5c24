"""The local engine: many processes share the work, and a killed one costs what it had in hand."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from diptych.embedding_cache.ports import Stage
from diptych.errors import ImageInvalid, QueueFull, StoreFull
from support.warming import (
    SHARD,
    HashEncoding,
    Noted,
    a_dataset,
    a_warmer,
    encodes,
    entry_of,
    packed,
)

WARMING = Path(__file__).parents[1] / "support" / "warming.py"
NUM_IN_HAND = 2 * SHARD
"""Entries that one process has under way at once."""


def begun(stack: ExitStack, home: Path, manifest: Path, *, pause_s: float) -> subprocess.Popen[str]:
    """Start a process that warms up, as soon as it is told to."""
    command = [sys.executable, str(WARMING), str(home), str(home / "notes"), str(pause_s)]
    paths = [str(WARMING.parents[2] / "services"), str(WARMING.parents[1])]
    process = subprocess.Popen(
        [*command, str(manifest)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": ":".join(paths), "PATH": ""},
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


def share(home: Path, *, num_processes: int, num_killed: int, num_images: int) -> set[str]:
    """Warm up in several processes, kill some half-way; return the keys that are needed."""
    manifest = home / "manifest.yaml"
    home.mkdir(exist_ok=True)
    manifest.write_text(a_dataset(home, num_images))
    with ExitStack() as stack:
        processes = [begun(stack, home, manifest, pause_s=0.01) for _ in range(num_processes)]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            go(process)
        for process in processes[:num_killed]:
            next(done for done, total in told(process) if 2 * done >= total)
            process.kill()
        for process in processes[num_killed:]:
            *_, (done, total) = told(process)
            assert done == total == 2 * num_images
            assert process.wait(60) == 0
    return set(encodes(home / "notes"))


def check(home: Path, needed: set[str], *, num_killed: int) -> None:
    """Check that every entry is there once, as a fresh encode has it, and what was made twice."""
    assert packed(home) == dict.fromkeys(needed, 1)
    counts = encodes(home / "notes")
    assert max(counts.values()) <= 2
    assert counts.total() - len(counts) <= num_killed * NUM_IN_HAND


def test_processes_share_a_dataset_and_outlive_those_that_are_killed(tmp_path: Path) -> None:
    needed = share(tmp_path, num_processes=4, num_killed=2, num_images=60)
    check(tmp_path, needed, num_killed=2)


def test_killed_warm_up_goes_on_where_it_stopped(tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(a_dataset(tmp_path, 24))
    with ExitStack() as stack:
        process = begun(stack, tmp_path, manifest, pause_s=0.01)
        go(process)
        assert process.stdout is not None
        process.stdout.readline()
        next(done for done, total in told(process) if 2 * done >= total)
        process.kill()
    before = packed(tmp_path)
    encodings = {Stage.BASE: Noted(HashEncoding(), tmp_path / "notes")}
    with a_warmer(tmp_path, encodings) as (warmer, _):
        outcome = warmer.warm(
            manifest.read_text(),
            [Stage.BASE],
            tenant="default",
            go_on=lambda: None,
            progress=lambda *_: None,
        )
    assert outcome.num_present == len(before) >= outcome.num_total // 2
    assert outcome.num_encoded == outcome.num_total - len(before)
    check(tmp_path, set(encodes(tmp_path / "notes")), num_killed=1)
