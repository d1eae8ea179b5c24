"""Where the nano pair and its demo adapters lie: shipped as package data."""

from importlib.resources import files
from pathlib import Path

from diptych.errors import ModelNotFound

__all__ = ["ADAPTERS", "EXPERTS", "adapter_path", "expert_path", "model_source", "pair_path"]

EXPERTS = ("base", "refiner", "base-single")
"""The two experts of the pair, and the full-schedule model they were fine-tuned from."""
ADAPTERS = ("moon", "night")
"""The demo adapters, as ``nano.adapters`` taught them."""


def adapter_path(name: str) -> Path:
    """Return the bundle of one of ``ADAPTERS``.

    Raises:
        ModelNotFound: The package was installed without it.
    """
    path = Path(str(files("diptych.nano") / "weights" / "adapters" / f"{name}.safetensors"))
    if name not in ADAPTERS or not path.is_file():
        raise ModelNotFound(f"nano adapter {name}", f"there are {', '.join(ADAPTERS)}")
    return path


def pair_path() -> Path:
    """Return the folder that holds ``base/`` and ``refiner/``, readable by any diffusers script.

    Raises:
        ModelNotFound: The package was installed without its weights.
    """
    # A wheel is always unpacked on disk, so the resource is a real folder.
    folder = Path(str(files("diptych.nano") / "weights"))
    for name in EXPERTS[:2]:
        _require(folder, name)
    return folder


def expert_path(name: str) -> Path:
    """Return the folder of one of ``EXPERTS``.

    Raises:
        ModelNotFound: No expert has this name, or the package holds no weights.
    """
    if name not in EXPERTS:
        raise ModelNotFound(f"nano/{name}", f"the nano pair holds {', '.join(EXPERTS)}")
    folder = Path(str(files("diptych.nano") / "weights"))
    return _require(folder, name)


def model_source(name: str | None, expert: str) -> str | None:
    """Return the folder of an embedded expert that a setting names, any other source as it is.

    ``nano`` is the pair's own ``expert``, ``nano/base-single`` one of ``EXPERTS``.

    Raises:
        ModelNotFound: as ``expert_path``.
    """
    if name == "nano":
        return str(expert_path(expert))
    if name is not None and name.startswith("nano/"):
        return str(expert_path(name.removeprefix("nano/")))
    return name


def _require(folder: Path, name: str) -> Path:
    if not (folder / name / "model_index.json").is_file():
        raise ModelNotFound(f"nano/{name}", f"no model_index.json in {folder / name}")
    return folder / name
