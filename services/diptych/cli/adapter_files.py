"""Adapter files on this machine: what an import sends, and conversion without a server."""

from pathlib import Path

from diptych.cli.embedded import need_extra
from diptych.clients.exporting import ExportWriter
from diptych.digest import Digest
from diptych.errors import FieldViolation, InvalidRequest

__all__ = ["as_upload", "convert_file"]

STAGES = ("base", "refiner", "both")


def as_upload(path: Path) -> Path | bytes:
    """Return a file as it is, a folder of PEFT's or diffusers' as one bundle's bytes.

    Raises:
        InvalidRequest: There is nothing.
        AdapterInvalid: The folder holds no adapter.
        ExtraMissing: A folder needs what is not installed.
    """
    if path.is_dir():
        need_extra("reading a folder of adapters")
        from diptych.adapters.bundle import to_bytes
        from diptych.adapters.reading import read_adapter

        return to_bytes(read_adapter(path, name=path.name))
    if not path.is_file():
        problem = f"no file {str(path)!r:.200}"
        raise InvalidRequest([FieldViolation(field="source", description=problem)])
    return path


def convert_file(
    source: Path, out: Path, target_format: str, *, family: str = "", stage: str | None = None
) -> list[Path]:
    """Write the adapter in ``source`` to ``out`` in another format and return the files' paths.

    Raises:
        InvalidRequest: A flag is wrong, there is no such file, or ``out`` cannot be written.
        AdapterInvalid: ``source`` is no adapter.
        ConversionUnsupported: The format cannot hold something of it.
    """
    from diptych.adapters.naming import Stage
    from diptych.adapters.reading import Overrides, read_adapter
    from diptych.adapters.writing import write_adapter

    if stage not in {None, *STAGES}:
        problem = f"{stage!r:.80} is none of {', '.join(STAGES)}"
        raise InvalidRequest([FieldViolation(field="stage", description=problem)])
    if not source.exists():
        problem = f"no file {str(source)!r:.200}"
        raise InvalidRequest([FieldViolation(field="source", description=problem)])
    overrides = Overrides(family=family or None, stage=Stage(stage) if stage else None)
    adapter = read_adapter(source, name=source.name, overrides=overrides)
    files = write_adapter(adapter, target_format)
    with ExportWriter(out) as writer:
        for name, data in files.items():
            sha256 = bytes.fromhex(Digest.of_bytes(data).hex)
            writer.begin(name, size_bytes=len(data), sha256=sha256)
            writer.append(data)
        return writer.finish()
