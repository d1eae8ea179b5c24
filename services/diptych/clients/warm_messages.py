"""Warm-ups to the message that asks for one, and what is told of it back to values."""

from diptych.clients.adapter_values import OnProgress
from diptych.clients.embedding_messages import LONG_PROMPTS, STAGES, read_key
from diptych.clients.embedding_values import WarmCall, WarmResult
from diptych.clients.message_fields import INT32, chosen, integer, unicode
from diptych.errors import ResponseCorrupt
from diptych.v1 import embedding_cache_pb2 as pb

__all__ = ["warm_request", "warmed", "whole"]


def warm_request(call: WarmCall, request_id: str) -> pb.WarmDatasetRequest:
    """Return the message that asks to warm up for a dataset.

    Raises:
        InvalidRequest: A value is none that a message holds.
    """
    return pb.WarmDatasetRequest(
        request_id=request_id,
        manifest=unicode("manifest", call.manifest),
        stages=[chosen("stages", stage, STAGES) for stage in call.stages],
        batch_size=integer("batch_size", call.batch_size, INT32),
        num_epochs=integer("num_epochs", call.num_epochs, INT32),
        long_prompt=chosen("long_prompt", call.long_prompt, LONG_PROMPTS),
        force=call.force,
    )


def warmed(message: pb.WarmDatasetResponse, progress: OnProgress | None) -> WarmResult | None:
    """Tell of a warm-up's progress, or return its result."""
    if message.HasField("result"):
        return _result(message.result)
    if progress is not None and message.HasField("progress"):
        progress(message.progress.num_done, message.progress.num_total)
    return None


def whole(result: WarmResult | None) -> WarmResult:
    """Return a warm-up's result.

    Raises:
        ResponseCorrupt: None came.
    """
    if result is None:
        raise ResponseCorrupt("a warm-up ended without its result")
    return result


def _result(message: pb.WarmResult) -> WarmResult:
    """Return what ``message`` says came of a warm-up."""
    return WarmResult(
        dataset=read_key(message.dataset),
        num_total=message.num_total,
        num_present=message.num_present,
        num_encoded=message.num_encoded,
        failures={one.item: one.problem for one in message.failures},
        num_failed=message.num_failed,
        num_cut=message.num_cut,
        left_out={one.what: one.why for one in message.left_out},
    )
