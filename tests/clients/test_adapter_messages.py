"""Calls about adapters become messages; what no message can hold is refused here."""

import hashlib
from pathlib import Path

import pytest

from diptych.clients.adapter_messages import (
    CHUNK_BYTES,
    import_messages,
    list_request,
    merge_request,
    read_info,
)
from diptych.clients.adapter_values import AdapterFilter, ImportCall, MergeCall
from diptych.errors import InvalidRequest
from diptych.v1 import adapters_pb2 as pb

DATA = bytes(CHUNK_BYTES + 1)
MERGE = {"sources": {"a": 0.5, "b": 2.0}, "method": "ties", "name": "m"}


def test_bytes_go_in_chunks_of_a_mebibyte() -> None:
    header, *chunks = import_messages(ImportCall(name="a", source=DATA), "r")
    assert [len(message.chunk) for message in chunks] == [CHUNK_BYTES, 1]
    assert header.header.upload.size_bytes == len(DATA)


def test_file_is_announced_with_its_name_and_digest(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"data")
    upload = next(import_messages(ImportCall(name="a", source=file), "r")).header.upload
    digest = hashlib.sha256(b"data").digest()
    assert (upload.file_name, upload.size_bytes, upload.sha256) == ("a.safetensors", 4, digest)


def test_progress_hears_of_each_chunk() -> None:
    told: list[tuple[int, int]] = []
    call = ImportCall(name="a", source=DATA)
    list(import_messages(call, "r", lambda done, total: told.append((done, total))))
    assert told == [(CHUNK_BYTES, len(DATA)), (len(DATA), len(DATA))]


def test_uri_needs_no_chunks() -> None:
    (message,) = import_messages(ImportCall(name="a", source="hf://a/b"), "r")
    assert message.header.uri == "hf://a/b"


def test_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        list(import_messages(ImportCall(name="a", source=tmp_path / "none"), "r"))


def test_unknown_stage_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="base, refiner, both"):
        list_request(AdapterFilter(stage="middle"), 10, "")


def test_sources_keep_their_order_and_weights() -> None:
    request = merge_request(MergeCall(**MERGE))  # type: ignore[arg-type]
    assert [(one.adapter, one.weight) for one in request.sources] == [("a", 0.5), ("b", 2.0)]


def test_open_options_are_absent() -> None:
    request = merge_request(MergeCall(**MERGE))  # type: ignore[arg-type]
    assert not any(request.HasField(name) for name in ("density", "rank", "energy", "slerp_t"))


def test_rank_that_no_message_holds_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="rank"):
        merge_request(MergeCall(**MERGE, rank=1 << 40))  # type: ignore[arg-type]


def test_what_the_file_did_not_say_is_none() -> None:
    info = read_info(pb.AdapterInfo(name="a"))
    assert (info.zero_snr, info.timestep_range, info.stage) == (None, None, "unspecified")


def test_timesteps_are_a_pair() -> None:
    message = pb.AdapterInfo(first_timestep=0, last_timestep=349, zero_snr=False)
    info = read_info(message)
    assert (info.timestep_range, info.zero_snr) == ((0, 349), False)
