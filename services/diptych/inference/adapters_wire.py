"""AdapterService's messages to values and back; everything wrong with a message is told at once."""

import math
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp

from diptych.adapters.card import Kind
from diptych.adapters.listing import Filter
from diptych.adapters.merge.report import LayerReport
from diptych.adapters.merge.spec import MAX_ADAPTERS, MergeSpec, Takes, check_spec
from diptych.adapters.naming import DEFAULT_TAG, Stage, check_name, check_tag, split_reference
from diptych.digest import Digest
from diptych.errors import InvalidRequest
from diptych.inference.limits import Limits
from diptych.inference.orders import (
    ZIP,
    ImportOrder,
    MergeOrder,
    MergeOutcome,
    Shown,
    Upload,
)
from diptych.rpc.violations import Violations, shown
from diptych.v1 import adapters_pb2 as pb

__all__ = [
    "adapter_info",
    "checked_reference",
    "export_format",
    "import_order",
    "listing_of",
    "merge_order",
    "merge_result",
    "named_reference",
]

STAGES: Final[Mapping[int, Stage | None]] = {
    pb.ADAPTER_STAGE_UNSPECIFIED: None,
    pb.ADAPTER_STAGE_BASE: Stage.BASE,
    pb.ADAPTER_STAGE_REFINER: Stage.REFINER,
    pb.ADAPTER_STAGE_BOTH: Stage.BOTH,
}
STAGE_NUMBERS: Final = {
    Stage.BASE: pb.ADAPTER_STAGE_BASE,
    Stage.REFINER: pb.ADAPTER_STAGE_REFINER,
    Stage.BOTH: pb.ADAPTER_STAGE_BOTH,
}
FORMATS: Final[Mapping[int, str]] = {
    pb.ADAPTER_FORMAT_UNSPECIFIED: "bundle",
    pb.ADAPTER_FORMAT_BUNDLE: "bundle",
    pb.ADAPTER_FORMAT_DIFFUSERS: "diffusers",
    pb.ADAPTER_FORMAT_PEFT: "peft",
    pb.ADAPTER_FORMAT_KOHYA: "kohya",
}
SPACES: Final[Mapping[int, Literal["product", "factors"]]] = {
    pb.MERGE_SPACE_UNSPECIFIED: "product",
    pb.MERGE_SPACE_PRODUCT: "product",
    pb.MERGE_SPACE_FACTORS: "factors",
}
ELECTIONS: Final[Mapping[int, Literal["total", "frequency"] | None]] = {
    pb.SIGN_ELECTION_UNSPECIFIED: None,
    pb.SIGN_ELECTION_TOTAL: "total",
    pb.SIGN_ELECTION_FREQUENCY: "frequency",
}
DEFAULT_DENSITY: Final = 0.5
MAX_FILE_NAME: Final = 1024
MAX_FAMILY: Final = 64
MAX_URI: Final = 2048
MAX_WORDS, MAX_WORD_BYTES = 64, 256
DIGEST_BYTES: Final = 32
MIN_ZIPPED: Final = 2
MAX_ZIP_STEPS: Final = 1000
FIELDS: Final = {"adapters": "sources", "position": "slerp_t"}
"""What a merge's check calls a field -> what the message does."""


def import_order(header: pb.ImportAdapterHeader, *, tenant: str) -> ImportOrder:
    """Return what ``header`` asks for.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
    """
    found = Violations()
    _check_request_id(header.request_id, "header.request_id", found)
    _check_name(header.name, header.tag, found, prefix="header.")
    found.text("header.family", header.family, MAX_FAMILY)
    if header.stage not in STAGES:
        found.add("header.stage", f"{header.stage} is not a value of AdapterStage")
    words = header.trigger_words
    if len(words) > MAX_WORDS or any(len(word.encode()) > MAX_WORD_BYTES for word in words):
        problem = f"more than {MAX_WORDS} words, or one of more than {MAX_WORD_BYTES} bytes"
        found.add("header.trigger_words", problem)
    order = ImportOrder(
        name=header.name,
        tag=header.tag or DEFAULT_TAG,
        tenant=tenant,
        source=_source(header, found),
        family=header.family or None,
        stage=STAGES.get(header.stage),
        trigger_words=tuple(words),
        replace=header.replace,
        expected=_digest(header.expected_digest, "header.expected_digest", found),
        force=header.force,
    )
    found.raise_if_any()
    return order


def merge_order(message: pb.MergeAdaptersRequest, limits: Limits, *, tenant: str) -> MergeOrder:
    """Return what ``message`` asks for.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
    """
    found = Violations()
    _check_request_id(message.request_id, "request_id", found)
    _check_name(message.name, message.tag, found)
    for index, source in enumerate(message.sources):
        _noting(partial(checked_reference, source.adapter, f"sources[{index}].adapter"), found)
    if message.space not in SPACES:
        found.add("space", f"{message.space} is not a value of MergeSpace")
    if message.election not in ELECTIONS:
        found.add("election", f"{message.election} is not a value of SignElection")
    spec = _spec(message)
    if message.method == ZIP:
        _check_zip(message, limits, found)
    else:
        _check_merge(message, spec, limits, found)
    found.raise_if_any()
    return MergeOrder(
        sources=tuple(source.adapter for source in message.sources),
        spec=spec,
        name=message.name,
        tag=message.tag or DEFAULT_TAG,
        tenant=tenant,
        replace=message.replace,
        force=message.force,
        prompts=tuple(message.prompts),
        num_steps=message.num_steps if message.HasField("num_steps") else None,
    )


def listing_of(message: pb.ListAdaptersRequest) -> Filter:
    """Return what a listing is about.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
    """
    found = Violations()
    if message.stage not in STAGES:
        found.add("stage", f"{message.stage} is not a value of AdapterStage")
    if message.kind:
        found.name("kind", message.kind, sorted(Kind))
    if message.page_size < 0:
        found.add("page_size", f"{message.page_size} is negative")
    found.text("family", message.family, MAX_FAMILY)
    if len(message.name_prefix) > MAX_FILE_NAME or "\0" in message.name_prefix:
        found.add("name_prefix", f"{shown(message.name_prefix)} begins no name")
    found.raise_if_any()
    return Filter(
        name_prefix=message.name_prefix,
        family=message.family or None,
        stage=STAGES[message.stage],
        kind=Kind(message.kind) if message.kind else None,
    )


def checked_reference(reference: str, field: str = "adapter") -> str:
    """Return ``reference`` if it is one.

    Raises:
        InvalidRequest: It is not ``name``, ``name:tag`` or a digest.
    """
    found = Violations()
    if not reference:
        found.add(field, "is required")
        found.raise_if_any()
    split_reference(reference, field_name=field)
    return reference


def named_reference(message: pb.DeleteAdapterRequest) -> tuple[str, Digest | None]:
    """Return the name to remove, and the digest it must point at.

    Raises:
        InvalidRequest: One or more fields are bad; all of them are named.
    """
    found = Violations()
    expected = _digest(message.expected_digest, "expected_digest", found)
    _noting(lambda: checked_reference(message.adapter), found)
    if message.adapter.startswith("sha256:"):
        found.add("adapter", "is a digest; names are removed, and bytes go when none is left")
    found.raise_if_any()
    return message.adapter, expected


def export_format(message: pb.ExportAdapterRequest) -> str:
    """Return the name of the format that is asked for.

    Raises:
        InvalidRequest: There is no such format.
    """
    found = Violations()
    if message.format not in FORMATS:
        found.add("format", f"{message.format} is not a value of AdapterFormat")
    found.raise_if_any()
    return FORMATS[message.format]


def adapter_info(adapter: Shown, residency: pb.AdapterResidency) -> pb.AdapterInfo:
    """Return the message that shows ``adapter``."""
    card = adapter.card
    create_time = Timestamp()
    create_time.FromDatetime(adapter.since)
    first, last = card.timestep_range or (None, None)
    return pb.AdapterInfo(
        name=adapter.name,
        tag=adapter.tag,
        digest=str(card.digest),
        size_bytes=card.size_bytes,
        family=card.family or "",
        base_fingerprint=card.base_fingerprint or "",
        stage=STAGE_NUMBERS[card.stage],
        prediction_type=card.prediction_type or "",
        zero_snr=card.zero_snr,
        first_timestep=first,
        last_timestep=last,
        max_rank=card.max_rank,
        num_targets=card.num_targets,
        kinds=sorted(card.kinds),
        tokens=sorted(card.tokens),
        trigger_words=card.trigger_words,
        create_time=create_time,
        source=card.source,
        residency=residency,
    )


def merge_result(outcome: MergeOutcome, info: pb.AdapterInfo) -> pb.MergeResult:
    """Return the message that tells what came of a merge."""
    report = outcome.report
    layers = sorted(report.layers, key=lambda layer: (-layer.error, _target(layer)))
    return pb.MergeResult(
        adapter=info,
        relative_error=report.error,
        layers=[
            pb.LayerError(target=_target(layer), relative_error=layer.error, rank=layer.rank)
            for layer in layers
        ],
        renamed_tokens={
            f"{outcome.sources[item.position]} {item.text}": item.renamed_to
            for item in report.renamed
        },
    )


def _check_merge(
    message: pb.MergeAdaptersRequest, spec: MergeSpec, limits: Limits, found: Violations
) -> None:
    """Note what the merge's own check finds, and options of ``zip``, which others ignore."""
    try:
        check_spec(spec, len(message.sources), max_rank=limits.max_adapter_rank)
    except InvalidRequest as invalid:
        for violation in invalid.violations:
            field = FIELDS.get(violation.field, violation.field)
            if field.startswith("weights["):
                field = f"sources{field.removeprefix('weights')}.weight"
            found.add(field, violation.description)
    for field, is_set in (
        ("prompts", bool(message.prompts)),
        ("num_steps", message.HasField("num_steps")),
    ):
        if is_set:
            found.add(field, f"method {shown(message.method)} has no use for it")


def _check_zip(message: pb.MergeAdaptersRequest, limits: Limits, found: Violations) -> None:
    num_sources = len(message.sources)
    if not MIN_ZIPPED <= num_sources <= MAX_ADAPTERS:
        found.add("sources", f"{num_sources} sources, expected {MIN_ZIPPED} to {MAX_ADAPTERS}")
    if len(message.prompts) != num_sources:
        found.add("prompts", f"{len(message.prompts)} prompts for {num_sources} sources")
    for index, prompt in enumerate(message.prompts):
        found.text(f"prompts[{index}]", prompt, limits.max_prompt_bytes, required=True)
    for index, source in enumerate(message.sources):
        if not math.isfinite(source.weight):
            found.add(f"sources[{index}].weight", f"{source.weight} is not a finite number")
    if message.HasField("num_steps"):
        found.integer("num_steps", message.num_steps, 1, MAX_ZIP_STEPS)
    _check_zip_cut(message, limits, found)
    if message.space == pb.MERGE_SPACE_FACTORS:
        found.add("space", "method zip works on the updates themselves")
    for field in ("density", "weighted_vote", "slerp_t"):
        if message.HasField(field):
            found.add(field, "method zip has no use for it")


def _check_zip_cut(message: pb.MergeAdaptersRequest, limits: Limits, found: Violations) -> None:
    """Note what is wrong with the numbers that any method may have: rank, energy, seed."""
    if message.HasField("rank"):
        found.integer("rank", message.rank, 1, limits.max_adapter_rank)
    if message.HasField("energy") and not 0 < message.energy <= 1:
        found.add("energy", f"{message.energy} is outside (0, 1]")
    if message.HasField("rank") and message.HasField("energy"):
        found.add("energy", "a rank is given too; give one of them")
    if message.seed < 0:
        found.add("seed", f"{message.seed} is negative")


def _spec(message: pb.MergeAdaptersRequest) -> MergeSpec:
    """Return how to merge; a density that the method needs and nobody gave is the default."""
    space = SPACES.get(message.space, "product")
    takes = MergeSpec(method=message.method, space=space).takes
    density = message.density if message.HasField("density") else None
    if density is None and takes & Takes.DENSITY:
        density = DEFAULT_DENSITY
    return MergeSpec(
        method=message.method,
        space=space,
        weights=tuple(s.weight if s.HasField("weight") else 1.0 for s in message.sources),
        density=density,
        rank=message.rank if message.HasField("rank") else None,
        energy=message.energy if message.HasField("energy") else None,
        seed=message.seed,
        election=ELECTIONS.get(message.election),
        weighted_vote=message.weighted_vote if message.HasField("weighted_vote") else None,
        position=message.slerp_t if message.HasField("slerp_t") else None,
    )


def _source(header: pb.ImportAdapterHeader, found: Violations) -> Upload | str:
    kind = header.WhichOneof("source")
    if kind == "uri":
        return found.text("header.uri", header.uri, MAX_URI)
    if kind is None:
        found.add("header.source", "is required: set upload or uri")
    upload = header.upload
    found.text("header.upload.file_name", upload.file_name, MAX_FILE_NAME)
    if len(upload.sha256) not in {0, DIGEST_BYTES}:
        problem = f"{len(upload.sha256)} bytes are no SHA-256, which has {DIGEST_BYTES}"
        found.add("header.upload.sha256", problem)
    return Upload(file_name=upload.file_name, size_bytes=upload.size_bytes, sha256=upload.sha256)


def _check_name(name: str, tag: str, found: Violations, *, prefix: str = "") -> None:
    if not name:
        found.add(f"{prefix}name", "is required")
    else:
        _noting(lambda: check_name(name, field_name=f"{prefix}name"), found)
    if tag:
        _noting(lambda: check_tag(tag, field_name=f"{prefix}tag"), found)


def _check_request_id(request_id: str, field: str, found: Violations) -> None:
    try:
        uuid.UUID(request_id or str(uuid.UUID(int=0)))
    except ValueError:
        found.add(field, f"{shown(request_id)} is not a UUID")


def _digest(text: str, field: str, found: Violations) -> Digest | None:
    if not text:
        return None
    try:
        if text.startswith("sha256:"):
            return Digest(hex=text.removeprefix("sha256:"))
    except ValueError:
        pass
    found.add(field, f"{shown(text)} is not sha256: and 64 hexadecimal digits")
    return None


def _noting(check: Callable[[], object], found: Violations) -> None:
    """Run ``check`` and note what it refuses."""
    try:
        check()
    except InvalidRequest as invalid:
        for violation in invalid.violations:
            found.add(violation.field, violation.description)


def _target(layer: LayerReport) -> str:
    return f"{layer.component}.{layer.module}"
