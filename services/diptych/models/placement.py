"""On which device networks run, and in which numbers."""

from typing import Final

import torch

from diptych.errors import FieldViolation, SettingInvalid

__all__ = ["DTYPES", "choose_device", "choose_dtype"]

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str, *, field: str) -> torch.device:
    """Return the device that a setting names; ``auto`` is an accelerator where there is one.

    Raises:
        SettingInvalid: This machine has no such device; it names ``field``.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _no_device(name, field) from error
    present = torch.cuda.device_count() if device.type == "cuda" else int(device.type == "cpu")
    if (device.index or 0) >= present:
        raise _no_device(name, field)
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a setting names; ``auto`` follows from the device."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _no_device(name: str, field: str) -> SettingInvalid:
    description = f"this machine has no device {name!r}"
    return SettingInvalid([FieldViolation(field=field, description=description)])
