"""What came of a call, as the messages that say so."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from diptych.digest import Digest
from diptych.embedding_cache.ports import (
    EncodingCounts,
    Found,
    Reclaimed,
    Stage,
    StoreCounts,
    WarmOutcome,
)
from diptych.embeddings.encoders import EncoderIdentities
from diptych.embeddings.key import EncoderIdentity
from diptych.errors import FieldViolation, InvalidRequest
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = [
    "encoded_embeddings",
    "encoders_answer",
    "eviction_answer",
    "fetched",
    "stats_answer",
    "warm_result",
]

MAX_VALUES_BYTES: Final = 3 << 20
"""Of the values inside one message, whose limit is 4 MiB."""
MAX_FAILURES: Final = 1000
SOURCES: Final = {
    "encoded": pb.EMBEDDING_SOURCE_ENCODED,
    "memory": pb.EMBEDDING_SOURCE_MEMORY,
    "disk": pb.EMBEDDING_SOURCE_DISK,
    "remote": pb.EMBEDDING_SOURCE_REMOTE,
}
STAGES: Final = {
    Stage.BASE: pb.ENCODER_STAGE_BASE,
    Stage.REFINER: pb.ENCODER_STAGE_REFINER,
}
KINDS: Final = {"prompt": pb.EMBEDDING_KIND_PROMPT, "image": pb.EMBEDDING_KIND_IMAGE}


def encoded_embeddings(
    keys: Sequence[Digest], found: Mapping[Digest, Found], *, is_all: bool
) -> list[pb.EncodedEmbedding]:
    """Return one message for each of ``keys``; the first of equal keys has the value, if it fits.

    Raises:
        InvalidRequest: ``is_all``, as nothing else has the values, and one does not fit.
    """
    messages, room, told = [], MAX_VALUES_BYTES, set[Digest]()
    for key in keys:
        one = found[key]
        message = pb.EncodedEmbedding(
            key=bytes.fromhex(key.hex), source=SOURCES[one.source], size_bytes=one.size_bytes
        )
        if one.value is not None and key not in told and len(one.value) <= room:
            message.value = one.value
            room -= len(one.value)
            told.add(key)
        elif is_all and key not in told:
            problem = f"the values exceed the {MAX_VALUES_BYTES} bytes of an answer; ask for fewer"
            raise InvalidRequest([FieldViolation(field="mode", description=problem)])
        messages.append(message)
    return messages


def fetched(
    keys: Sequence[Digest], found: Mapping[Digest, tuple[bytes, bytes]]
) -> pb.FetchEmbeddingsResponse:
    """Return the message of those of ``keys`` that have a value and its SHA-256 in ``found``."""
    answer, room = pb.FetchEmbeddingsResponse(), MAX_VALUES_BYTES
    for key in keys:
        raw = bytes.fromhex(key.hex)
        if key not in found:
            answer.missing.append(raw)
            continue
        value, sha256 = found[key]
        if len(value) > room:
            answer.unsent.append(raw)
            continue
        room -= len(value)
        answer.embeddings.add(key=raw, size_bytes=len(value), sha256=sha256, value=value)
    return answer


def warm_result(outcome: WarmOutcome) -> pb.WarmResult:
    """Return the message of a warm-up that ended."""
    return pb.WarmResult(
        dataset=bytes.fromhex(outcome.dataset.hex),
        num_total=outcome.num_total,
        num_present=outcome.num_present,
        num_encoded=outcome.num_encoded,
        num_failed=len(outcome.failures),
        failures=[
            pb.WarmFailure(item=item, problem=problem)
            for item, problem in outcome.failures[:MAX_FAILURES]
        ],
        num_cut=outcome.num_cut,
        left_out=[
            pb.WarmOmission(what=what, why=why) for what, why in outcome.left_out[:MAX_FAILURES]
        ],
    )


def encoders_answer(hosted: Mapping[Stage, EncoderIdentities]) -> pb.GetEncodersResponse:
    """Return the message of the encoders of each stage."""
    answer = pb.GetEncodersResponse()
    for stage, found in hosted.items():
        prompt_probe, image_probe = found.probes
        answer.encoders.add(
            stage=STAGES[stage],
            family=found.family,
            prompt=_identity(found.prompt),
            image=_identity(found.image),
            window_tokens=found.window_tokens,
            hidden_width=found.hidden_width,
            pooled_width=found.pooled_width,
            latents=pb.LatentSpace(
                channels=found.latents.channels,
                pixels_per_latent=found.latents.pixels_per_latent,
                scaling_factor=found.latents.scaling_factor,
                latents_mean=found.latents.latents_mean,
                latents_std=found.latents.latents_std,
            ),
            prompt_probe=bytes.fromhex(prompt_probe.hex),
            image_probe=bytes.fromhex(image_probe.hex),
        )
    return answer


def stats_answer(
    counts: StoreCounts, encoded: Sequence[EncodingCounts]
) -> pb.GetCacheStatsResponse:
    """Return the message of what a tenant's store holds and the encoders did."""
    answer = pb.GetCacheStatsResponse(num_roots=counts.num_roots, num_damaged=counts.num_damaged)
    for tier in counts.tiers:
        answer.tiers.add(
            tier=tier.tier,
            num_entries=tier.num_entries,
            size_bytes=tier.size_bytes,
            limit_bytes=tier.limit_bytes,
            num_hits=tier.num_hits,
            num_misses=tier.num_misses,
            num_evictions=tier.num_evictions,
        )
    for one in encoded:
        stats = answer.encodings.add(
            kind=KINDS[one.kind], num_encoded=one.num_encoded, num_batches=one.num_batches
        )
        stats.encode_time.FromTimedelta(timedelta(seconds=one.seconds))
    return answer


def eviction_answer(reclaimed: Reclaimed) -> pb.EvictEmbeddingsResponse:
    """Return the message of what went."""
    return pb.EvictEmbeddingsResponse(
        num_evicted=reclaimed.num_evicted,
        evicted_bytes=reclaimed.evicted_bytes,
        num_kept=reclaimed.num_kept,
        kept_bytes=reclaimed.kept_bytes,
    )


def _identity(encoder: EncoderIdentity) -> pb.EncoderIdentity:
    return pb.EncoderIdentity(
        fingerprint=encoder.fingerprint, precision=encoder.precision, stored=encoder.stored
    )
