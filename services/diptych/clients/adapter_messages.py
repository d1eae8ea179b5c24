"""Values to AdapterService's messages and back."""

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC
from pathlib import Path
from typing import Final

from diptych.clients.adapter_values import (
    AdapterFilter,
    AdapterInfo,
    ImportCall,
    LayerError,
    MergeCall,
    MergeResult,
    OnProgress,
    Residency,
)
from diptych.clients.message_fields import INT32, INT64, chosen, integer
from diptych.errors import FieldViolation, InvalidRequest
from diptych.v1 import adapters_pb2 as pb

__all__ = [
    "FORMATS",
    "import_messages",
    "list_request",
    "merge_request",
    "read_info",
    "read_merge_result",
]

CHUNK_BYTES: Final = 1 << 20
STAGES: Final[Mapping[str | None, pb.AdapterStage.ValueType]] = {
    None: pb.ADAPTER_STAGE_UNSPECIFIED,
    "base": pb.ADAPTER_STAGE_BASE,
    "refiner": pb.ADAPTER_STAGE_REFINER,
    "both": pb.ADAPTER_STAGE_BOTH,
}
STAGE_NAMES: Final = {number: name or "unspecified" for name, number in STAGES.items()}
FORMATS: Final[Mapping[str, pb.AdapterFormat.ValueType]] = {
    "bundle": pb.ADAPTER_FORMAT_BUNDLE,
    "diffusers": pb.ADAPTER_FORMAT_DIFFUSERS,
    "peft": pb.ADAPTER_FORMAT_PEFT,
    "kohya": pb.ADAPTER_FORMAT_KOHYA,
}
SPACES: Final[Mapping[str | None, pb.MergeSpace.ValueType]] = {
    None: pb.MERGE_SPACE_UNSPECIFIED,
    "product": pb.MERGE_SPACE_PRODUCT,
    "factors": pb.MERGE_SPACE_FACTORS,
}
ELECTIONS: Final[Mapping[str | None, pb.SignElection.ValueType]] = {
    None: pb.SIGN_ELECTION_UNSPECIFIED,
    "total": pb.SIGN_ELECTION_TOTAL,
    "frequency": pb.SIGN_ELECTION_FREQUENCY,
}


def import_messages(
    call: ImportCall, request_id: str, progress: OnProgress | None = None
) -> Iterator[pb.ImportAdapterRequest]:
    """Yield the messages of an import: its header, then a file's bytes in chunks.

    Raises:
        InvalidRequest: The file cannot be read, or a value is none that a message holds.
    """
    header = pb.ImportAdapterHeader(
        request_id=request_id,
        name=call.name,
        tag=call.tag,
        family=call.family,
        stage=chosen("stage", call.stage, STAGES),
        trigger_words=call.trigger_words,
        replace=call.replace,
        expected_digest=call.expected_digest,
        force=call.force,
    )
    if isinstance(call.source, str):
        header.uri = call.source
        yield pb.ImportAdapterRequest(header=header)
        return
    try:
        yield from _uploaded(header, call.source, progress or (lambda _done, _total: None))
    except OSError as error:
        problem = f"{call.source!s} cannot be read: {error.strerror or error}"
        raise InvalidRequest([FieldViolation(field="source", description=problem)]) from error


def list_request(where: AdapterFilter, page_size: int, page_token: str) -> pb.ListAdaptersRequest:
    """Return the message that asks for a page.

    Raises:
        InvalidRequest: A value is none that a message holds.
    """
    return pb.ListAdaptersRequest(
        page_size=integer("page_size", page_size, INT32),
        page_token=page_token,
        name_prefix=where.name_prefix,
        family=where.family,
        stage=chosen("stage", where.stage, STAGES),
        kind=where.kind,
    )


def merge_request(call: MergeCall) -> pb.MergeAdaptersRequest:
    """Return the message that asks for a merge.

    Raises:
        InvalidRequest: A value is none that a message holds.
    """
    rank, num_steps = call.rank, call.num_steps
    return pb.MergeAdaptersRequest(
        request_id=str(uuid.uuid4()),
        sources=[
            pb.MergeSource(adapter=adapter, weight=weight)
            for adapter, weight in call.sources.items()
        ],
        method=call.method,
        space=chosen("space", call.space, SPACES),
        density=call.density,
        rank=None if rank is None else integer("rank", rank, INT32),
        energy=call.energy,
        seed=integer("seed", call.seed, INT64),
        election=chosen("election", call.election, ELECTIONS),
        weighted_vote=call.weighted_vote,
        slerp_t=call.slerp_t,
        prompts=call.prompts,
        num_steps=None if num_steps is None else integer("num_steps", num_steps, INT32),
        name=call.name,
        tag=call.tag,
        replace=call.replace,
        force=call.force,
    )


def read_info(message: pb.AdapterInfo) -> AdapterInfo:
    """Return the adapter that ``message`` shows."""
    timesteps = None
    if message.HasField("first_timestep") and message.HasField("last_timestep"):
        timesteps = (message.first_timestep, message.last_timestep)
    return AdapterInfo(
        name=message.name,
        tag=message.tag,
        digest=message.digest,
        size_bytes=message.size_bytes,
        family=message.family,
        base_fingerprint=message.base_fingerprint,
        stage=STAGE_NAMES.get(message.stage, "unspecified"),
        prediction_type=message.prediction_type,
        zero_snr=message.zero_snr if message.HasField("zero_snr") else None,
        timestep_range=timesteps,
        max_rank=message.max_rank,
        num_targets=message.num_targets,
        kinds=tuple(message.kinds),
        tokens=tuple(message.tokens),
        trigger_words=tuple(message.trigger_words),
        created_at=message.create_time.ToDatetime(UTC),
        source=message.source,
        residency=Residency(
            tier=message.residency.tier,
            pinned=message.residency.pinned,
            num_requests=message.residency.num_requests,
        ),
    )


def read_merge_result(message: pb.MergeResult) -> MergeResult:
    """Return what ``message`` says came of a merge."""
    return MergeResult(
        adapter=read_info(message.adapter),
        relative_error=message.relative_error,
        layers=tuple(
            LayerError(target=one.target, relative_error=one.relative_error, rank=one.rank)
            for one in message.layers
        ),
        renamed_tokens=dict(message.renamed_tokens),
    )


def _uploaded(
    header: pb.ImportAdapterHeader, source: Path | bytes, progress: OnProgress
) -> Iterator[pb.ImportAdapterRequest]:
    """Yield the messages of an upload; a file is read twice, for its digest first."""
    upload = header.upload
    upload.SetInParent()
    if isinstance(source, Path):
        with source.open("rb") as stream:
            upload.sha256 = hashlib.file_digest(stream, "sha256").digest()
        upload.file_name, upload.size_bytes = source.name, source.stat().st_size
    else:
        upload.sha256, upload.size_bytes = hashlib.sha256(source).digest(), len(source)
    total = upload.size_bytes
    yield pb.ImportAdapterRequest(header=header)
    done = 0
    for chunk in _chunks(source):
        yield pb.ImportAdapterRequest(chunk=chunk)
        done += len(chunk)
        progress(done, total)


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        for start in range(0, len(source), CHUNK_BYTES):
            yield source[start : start + CHUNK_BYTES]
        return
    with source.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
