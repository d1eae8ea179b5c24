"""Calls become request messages; what no message can hold is noted, all of it at once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from diptych.clients.calls import (
    AdapterChoice,
    GenerateCall,
    ImageSource,
    Latents,
    RefineCall,
    Stage,
)
from diptych.errors import FieldViolation
from diptych.rpc.channel import MAX_MESSAGE_BYTES
from diptych.v1 import inference_pb2 as pb
from diptych.v1 import types_pb2 as types

__all__ = ["Draft", "draft_generate", "draft_refine", "merged"]

Request = TypeVar("Request", pb.GenerateRequest, pb.RefineRequest)

OUTPUTS: Final[Mapping[str, int]] = {
    "png": types.OUTPUT_FORMAT_PNG,
    "webp": types.OUTPUT_FORMAT_WEBP,
    "jpeg": types.OUTPUT_FORMAT_JPEG,
    "latents": types.OUTPUT_FORMAT_LATENTS,
}
HISTORIES: Final[Mapping[str, int]] = {
    "restart": types.SOLVER_HISTORY_RESTART,
    "carry": types.SOLVER_HISTORY_CARRY,
}
LONG_PROMPTS: Final[Mapping[str, int]] = {
    "error": types.LONG_PROMPT_ERROR,
    "truncate": types.LONG_PROMPT_TRUNCATE,
    "chunk": types.LONG_PROMPT_CHUNK,
}

INTEGER_BITS: Final[Mapping[int, int]] = {
    FieldDescriptor.CPPTYPE_INT32: 32,
    FieldDescriptor.CPPTYPE_INT64: 64,
}
NO_OUTPUT: Final = -1
"""No server knows this format, so a request with it is checked and never carried out."""
CHECKED_BY: Final = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft(Generic[Request]):
    """The message for a call, and what of the call it cannot hold."""

    message: Request
    violations: tuple[FieldViolation, ...]

    def checking(self) -> Request:
        """Return the message such that a server only checks it: it refuses it in any case."""
        message = type(self.message)()
        message.CopyFrom(self.message)
        message.output = NO_OUTPUT  # type: ignore[assignment] # an enum of proto3 is open
        return message

    def found(self, refused: Sequence[FieldViolation]) -> tuple[FieldViolation, ...]:
        """Return all that is wrong with the call, once a server ``refused`` ``checking``."""
        named = [violation for violation in refused if violation.field != CHECKED_BY]
        return merged(self.violations, named)


class _Writer:
    """Sets fields of one message and notes those whose value it cannot hold."""

    def __init__(self, message: Message, path: str, violations: list[FieldViolation]) -> None:
        """Write to ``message``, which lies at ``path`` of the request."""
        self._message = message
        self._path = path
        self._violations = violations

    def set(self, **values: object) -> None:
        """Set each field to its value; None leaves it absent."""
        for name, value in values.items():
            if value is None:
                continue
            if isinstance(value, str | bytes) and len(value) > MAX_MESSAGE_BYTES:
                self._refuse(name, f"{len(value)} exceeds the {MAX_MESSAGE_BYTES} bytes of a call")
                continue
            try:
                setattr(self._message, name, value)
            except (TypeError, ValueError) as error:
                bits = INTEGER_BITS.get(self._message.DESCRIPTOR.fields_by_name[name].cpp_type)
                if bits and isinstance(value, int):
                    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
                    setattr(self._message, name, high if value > high else low)
                    problem = f"it is not in [{low}, {high}]"
                else:
                    problem = str(error)
                self._refuse(name, f"{value!r:.80} does not fit: {problem}")

    def choose(self, name: str, value: str | None, choices: Mapping[str, int]) -> None:
        """Set enum field ``name`` to the number that ``choices`` gives for ``value``."""
        if value is None:
            return
        if value in choices:
            self.set(**{name: choices[value]})
        else:
            self._refuse(name, f"{value!r:.80} is none of {', '.join(choices)}")

    def extend(self, name: str, values: Sequence[int]) -> None:
        """Append ``values`` to repeated field ``name``."""
        getattr(self._message, name).extend(values)

    def child(self, name: str) -> "_Writer":
        """Return a writer for the message in field ``name``, which is present from now on."""
        message: Any = getattr(self._message, name)
        message.SetInParent()
        return _Writer(message, f"{self._path}{name}.", self._violations)

    def added(self, name: str, index: int) -> "_Writer":
        """Return a writer for a new message, the ``index``-th, in repeated field ``name``."""
        message: Any = getattr(self._message, name).add()
        return _Writer(message, f"{self._path}{name}[{index}].", self._violations)

    def put(self, name: str, values: Mapping[str, float]) -> None:
        """Fill map ``name`` with ``values``."""
        try:
            getattr(self._message, name).update(values)
        except (TypeError, ValueError) as error:
            self._refuse(name, str(error))

    def _refuse(self, name: str, problem: str) -> None:
        self._violations.append(FieldViolation(field=f"{self._path}{name}", description=problem))


def draft_generate(call: GenerateCall) -> Draft[pb.GenerateRequest]:
    """Return the message for ``call``; numbers it cannot hold are the nearest ones it can."""
    request, violations = pb.GenerateRequest(), list[FieldViolation]()
    writer = _Writer(request, "", violations)
    writer.set(base_only=call.base_only, width=call.width, height=call.height)
    writer.choose("history", call.history, HISTORIES)
    _write_stage(writer.child("base"), call.base)
    if call.refiner is not None:
        _write_stage(writer.child("refiner"), call.refiner)
    _write_shared(writer, call)
    return Draft(message=request, violations=tuple(violations))


def draft_refine(call: RefineCall) -> Draft[pb.RefineRequest]:
    """Return the message for ``call``; numbers it cannot hold are the nearest ones it can."""
    request, violations = pb.RefineRequest(), list[FieldViolation]()
    writer = _Writer(request, "", violations)
    _write_stage(writer.child("refiner"), call.refiner)
    _write_source(writer, call.source)
    _write_shared(writer, call)
    return Draft(message=request, violations=tuple(violations))


def merged(
    own: Sequence[FieldViolation], others: Sequence[FieldViolation]
) -> tuple[FieldViolation, ...]:
    """Return ``own`` and those of ``others`` that speak of other fields.

    Of a field that is refused here another party saw no more than what stood in for it.
    """
    fields = {violation.field for violation in own}
    parents = tuple(f"{field}." for field in fields)
    return (
        *own,
        *(v for v in others if v.field not in fields and not v.field.startswith(parents)),
    )


def _write_shared(writer: _Writer, call: GenerateCall | RefineCall) -> None:
    """Write what both requests have, under the same names."""
    writer.set(
        request_id=call.request_id,
        num_images=call.num_images,
        seed=call.seed,
        num_steps=call.num_steps,
        boundary=call.boundary,
        solver=call.solver,
        spacing=call.spacing,
        sigma_schedule=call.sigma_schedule,
        eta=call.eta,
        quality=call.quality,
        preview_every=call.preview_every,
    )
    for index, adapter in enumerate(call.adapters):
        _write_adapter(writer.added("adapters", index), adapter)
    writer.choose("output", call.output, OUTPUTS)
    writer.choose("long_prompt", call.long_prompt, LONG_PROMPTS)
    if call.original_size is not None:
        height, width = call.original_size
        writer.child("original_size").set(height=height, width=width)
    if call.target_size is not None:
        height, width = call.target_size
        writer.child("target_size").set(height=height, width=width)
    if call.crop_top_left is not None:
        top, left = call.crop_top_left
        writer.child("crop_top_left").set(top=top, left=left)


def _write_stage(writer: _Writer, stage: Stage) -> None:
    """Write how one expert is conditioned."""
    writer.set(
        prompt=stage.prompt,
        negative_prompt=stage.negative_prompt,
        guidance_scale=stage.guidance_scale,
        guidance_rescale=stage.guidance_rescale,
        aesthetic_score=stage.aesthetic_score,
        negative_aesthetic_score=stage.negative_aesthetic_score,
    )
    if stage.guidance_interval is not None:
        start, end = stage.guidance_interval
        writer.child("guidance_interval").set(start=start, end=end)


def _write_adapter(writer: _Writer, choice: AdapterChoice) -> None:
    """Write an adapter and how strongly it acts."""
    writer.set(adapter=choice.adapter, scale=choice.scale, force=choice.force)
    writer.put("parts", choice.parts)


def _write_source(writer: _Writer, source: Latents | ImageSource) -> None:
    """Write what the refiner starts from."""
    if isinstance(source, ImageSource):
        writer.child("image").set(data=source.data, strength=source.strength)
        return
    latents = writer.child("latents")
    data = np.ascontiguousarray(source.values, dtype="<f4").tobytes()
    latents.set(data=data, sha256=hashlib.sha256(data).digest())
    header = latents.child("header")
    header.extend("shape", source.values.shape)
    header.set(
        family=source.family,
        boundary=source.boundary,
        num_steps=source.num_steps,
        num_draws=source.num_draws,
    )
