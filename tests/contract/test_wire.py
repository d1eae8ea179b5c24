"""The wire as it was promised: ``wire.txt`` lists it, and a change there is made on purpose.

Lines may be added. A line that goes or changes breaks programs that are out there.
"""

from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from diptych.v1 import (
    adapters_pb2,
    embedding_cache_pb2,
    inference_pb2,
    training_pb2,
    types_pb2,
)

GOLDEN = Path(__file__).with_name("wire.txt")
TYPES = {
    number: name.removeprefix("TYPE_").lower()
    for name, number in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}


def described(file: FileDescriptor) -> Iterator[str]:
    """Yield one line for each thing in ``file`` that the other side depends on."""
    for service in file.services_by_name.values():
        for method in service.methods:
            asked = "stream " if method.client_streaming else ""
            answer = "stream " if method.server_streaming else ""
            types = f"({asked}{method.input_type.name}) returns ({answer}{method.output_type.name})"
            yield f"rpc {service.full_name}.{method.name}{types}"
    for message in file.message_types_by_name.values():
        yield f"message {message.full_name}"
        yield from (f"field {message.name}.{line}" for line in fields(message))
    for enum in file.enum_types_by_name.values():
        yield from (f"enum {enum.full_name}.{v.name} = {v.number}" for v in enum.values)


def fields(message: Descriptor) -> Iterator[str]:
    """Yield ``name = number: label type`` for each field."""
    for field in message.fields:
        named = field.message_type or field.enum_type
        type_name = named.name if named is not None else TYPES[field.type]
        oneof = field.containing_oneof
        label = "repeated " if field.is_repeated else ""
        if oneof is not None:
            label = "optional " if oneof.name.startswith("_") else f"oneof {oneof.name} "
        yield f"{field.name} = {field.number}: {label}{type_name}"


def test_wire_is_as_listed() -> None:
    modules = (types_pb2, inference_pb2, adapters_pb2, embedding_cache_pb2, training_pb2)
    lines = [line for module in modules for line in described(module.DESCRIPTOR)]
    assert sorted(lines) == GOLDEN.read_text().splitlines()
