"""What a format has no word for is said beside it, and found again."""

from dataclasses import replace

import pytest
from hypothesis import given

from diptych.adapters.adapter import Adapter, MadeFor
from diptych.adapters.file_facts import header_with_facts
from diptych.adapters.kohya_header import FACTS_KEY, read_header
from diptych.errors import ConversionUnsupported
from support.made_adapters import made_fors

ADAPTER = Adapter(trigger_words=("huggy",), metadata={"ss_network_dim": "4"})


@given(made_fors())
def test_purpose_words_and_metadata_are_found_again(made_for: MadeFor) -> None:
    adapter = replace(ADAPTER, made_for=made_for)
    texts = header_with_facts(adapter, {"format": "pt"}, target_format="diffusers")
    read = read_header(texts, source="here")
    assert (read.made_for, read.trigger_words) == (made_for, ("huggy",))
    assert dict(read.metadata) == {"ss_network_dim": "4"}


def test_other_programs_see_the_formats_and_the_carried_entries() -> None:
    texts = header_with_facts(ADAPTER, {"format": "pt"}, target_format="diffusers")
    assert (texts["format"], texts["ss_network_dim"]) == ("pt", "4")


@pytest.mark.parametrize("key", ["format", FACTS_KEY])
def test_refuses_to_overwrite_what_the_adapter_carries(key: str) -> None:
    with pytest.raises(ConversionUnsupported, match="format diffusers cannot hold carried"):
        header_with_facts(Adapter(metadata={key: "x"}), {"format": "pt"}, target_format="diffusers")
