"""What an exported file's header says beyond its format, so that nothing is lost in it."""

from collections.abc import Mapping
from typing import Final

from diptych.adapters.adapter import Adapter
from diptych.adapters.kohya_header import FACTS_KEY
from diptych.adapters.purpose import made_for_to_plain
from diptych.digest import canonical_bytes
from diptych.errors import ConversionUnsupported

__all__ = ["header_with_facts"]

_VERSION: Final = 1


def header_with_facts(
    adapter: Adapter, texts: Mapping[str, str], *, target_format: str
) -> dict[str, str]:
    """Return a file's header: the format's own ``texts``, what ``adapter`` carries, our facts.

    ``kohya_header.read_header`` gives purpose, words and carried metadata back.

    Raises:
        ConversionUnsupported: The adapter carries an entry that the format gives a meaning to.
    """
    taken = sorted(adapter.metadata.keys() & {*texts, FACTS_KEY})
    if taken:
        content = f"carried metadata {taken[0]!r}, which means something else there"
        raise ConversionUnsupported(target_format=target_format, content=content)
    facts = {
        "version": _VERSION,
        "made_for": made_for_to_plain(adapter.made_for),
        "trigger_words": list(adapter.trigger_words),
        "layers_per_block": 0,
        "added": sorted(texts),
    }
    return {**adapter.metadata, **texts, FACTS_KEY: canonical_bytes(facts).decode()}
