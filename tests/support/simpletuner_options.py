"""Entries of SimpleTuner's file, and what was said of their options."""

from typing import Any

from diptych.datasets.simpletuner.options import Options, Said

__all__ = ["Entry"]


class Entry:
    """One entry's options with what is said of them."""

    def __init__(self, defaults: dict[str, Any] | None = None, /, **values: Any) -> None:
        self.all: list[Said] = []
        self.options = Options("one", {"id": "one", **values}, defaults or {}, self.all)

    def said(self) -> dict[str, str]:
        """Return the outcome of each option, those of its parts under ``part.option``."""
        self.options.own("id")
        self.options.finish()
        return {
            f"{one.entry}.{one.option}".removeprefix("one.").removeprefix("one: "): one.outcome
            for one in self.all
        }

    def detail(self, option: str) -> str:
        """Return what was said of an option."""
        self.options.finish()
        return next(one.detail for one in self.all if one.option == option)
