#!/usr/bin/env python3
"""Generate ``services/diptych/v1`` from ``proto/``: messages, gRPC stubs and their types.

``python proto/generate.py`` writes the package; ``--check`` writes nothing and fails, naming the
files, when what is committed is not what the sources give. Needs grpcio-tools and mypy-protobuf,
no network.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

__all__ = ["compile_protos", "main", "stale_files"]

PROTO_ROOT = Path(__file__).resolve().parent
PACKAGE = Path("diptych/v1")
GENERATED = PROTO_ROOT.parent / "services" / PACKAGE
SCRIPTS = Path(sys.executable).parent
PLUGINS = ("mypy", "mypy_grpc")
INIT = (
    '"""Messages and stubs generated from proto/diptych/v1 by proto/generate.py; do not edit."""\n'
)


def compile_protos(out: Path) -> dict[str, bytes]:
    """Run protoc into ``out`` and return the generated package's files by name.

    Raises:
        RuntimeError: protoc refused the sources; its complaints are on stderr.
    """
    sources = sorted(str(path) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = ["protoc", f"--proto_path={PROTO_ROOT}", f"--proto_path={well_known}"]
    arguments += [f"--{name}_out={out}" for name in ("python", "grpc_python", *PLUGINS)]
    arguments += [f"--plugin=protoc-gen-{name}={SCRIPTS}/protoc-gen-{name}" for name in PLUGINS]
    if protoc.main([*arguments, *sources]) != 0:
        raise RuntimeError(f"protoc failed on {', '.join(sources)}")
    files = {path.name: path.read_bytes() for path in (out / PACKAGE).iterdir() if path.is_file()}
    return {**files, "__init__.py": INIT.encode()}


def stale_files(generated: dict[str, bytes]) -> list[str]:
    """Name the files of the committed package that differ from ``generated``, either way."""
    committed = {p.name: p.read_bytes() for p in GENERATED.glob("*") if p.is_file()}
    names = sorted(generated.keys() | committed.keys())
    return [name for name in names if generated.get(name) != committed.get(name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the generated package; return the process's exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    check: bool = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as out:
        generated = compile_protos(Path(out))
    stale = stale_files(generated)
    if check:
        if stale:
            sys.stderr.write(f"stale, run `python proto/generate.py`: {', '.join(stale)}\n")
        return int(bool(stale))
    GENERATED.mkdir(parents=True, exist_ok=True)
    for name in stale:
        if name in generated:
            (GENERATED / name).write_bytes(generated[name])
        else:
            (GENERATED / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
