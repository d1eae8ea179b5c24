"""The proto files explain all they hold, and the committed stubs are what they give."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from diptych import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "proto" / "diptych" / "v1").glob("*.proto"))
KINDS = {
    (4,): "message",
    (4, 2): "field",
    (4, 8): "oneof",
    (5,): "enum",
    (5, 2): "enum value",
    (6,): "service",
    (6, 2): "rpc",
}
"""What a path of descriptor fields, without its indices, leads to."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """Compile the sources with their comments."""
    out = tmp_path_factory.mktemp("proto") / "set.binpb"
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"--proto_path={ROOT / 'proto'}", f"--proto_path={well_known}"]
    arguments += ["--include_source_info", f"--descriptor_set_out={out}"]
    assert protoc.main([*arguments, *map(str, SOURCES)]) == 0
    return list(FileDescriptorSet.FromString(out.read_bytes()).file)


def comments(files: list[FileDescriptorProto], kind: str) -> dict[str, str]:
    """Return the comment above each thing of ``kind``, by where it is."""
    return {
        f"{file.name}:{location.span[0] + 1}": location.leading_comments
        for file in files
        for location in file.source_code_info.location
        if KINDS.get(tuple(location.path[::2])) == kind
    }


@pytest.mark.parametrize("kind", KINDS.values())
def test_everything_is_explained(kind: str, files: list[FileDescriptorProto]) -> None:
    found = comments(files, kind)
    assert found
    assert [where for where, comment in found.items() if not comment.strip()] == []


def test_every_rpc_lists_its_codes(files: list[FileDescriptorProto]) -> None:
    found = comments(files, "rpc")
    assert [where for where, comment in found.items() if "Codes:" not in comment] == []


def test_reasons_in_the_proto_are_those_of_the_error_tree(
    files: list[FileDescriptorProto],
) -> None:
    told = {**comments(files, "rpc"), **comments(files, "service")}
    pairs = {
        (code, reason)
        for comment in told.values()
        for code, reasons in re.findall(r"^ +([A-Z_]+) \(([A-Z_, ]+)\):", comment, re.MULTILINE)
        for reason in reasons.split(", ")
    }
    classes = [getattr(errors, name) for name in errors.__all__ if name != "FieldViolation"]
    assert pairs
    assert pairs - {(c.code, c.reason) for c in classes} == set()


def test_committed_stubs_are_what_the_sources_give() -> None:
    command = [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
