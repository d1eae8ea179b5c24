"""A card says in plain JSON what a listing shows."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from diptych.adapters.card import AdapterCard, Kind
from diptych.adapters.naming import Component, Stage
from diptych.digest import Digest
from diptych.errors import AdapterInvalid

CARD = AdapterCard(
    digest=Digest.of_bytes(b"huggy"),
    size_bytes=12,
    created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    source="hf://owner/name@abc",
    stage=Stage.BOTH,
    kinds=frozenset({Kind.LORA, Kind.TOKENS}),
    components=frozenset({Component.UNET, Component.TEXT_ENCODER}),
    max_rank=16,
    num_targets=140,
    tokens={"<s0>": 2},
    trigger_words=("hug",),
    family="sdxl-base",
    prediction_type="v_prediction",
    zero_snr=True,
    timestep_range=(0, 349),
)


def test_a_card_reads_what_it_wrote() -> None:
    assert AdapterCard.from_bytes(CARD.to_bytes()) == CARD


def test_a_card_of_nothing_known_reads_what_it_wrote() -> None:
    plain = AdapterCard(
        digest=CARD.digest, size_bytes=0, created_at=CARD.created_at, source="upload"
    )
    assert AdapterCard.from_bytes(plain.to_bytes()) == plain


def test_a_card_is_written_in_utc() -> None:
    moment = datetime(2026, 1, 2, 5, tzinfo=timezone(timedelta(hours=2)))
    card = AdapterCard(digest=CARD.digest, size_bytes=0, created_at=moment, source="upload")
    assert b"2026-01-02T03:00:00+00:00" in card.to_bytes()


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b"\xff", CARD.to_bytes().replace(b'"both"', b'"neither"')],
)
def test_refuses_what_is_no_card(data: bytes) -> None:
    with pytest.raises(AdapterInvalid, match="is not a card"):
        AdapterCard.from_bytes(data)


@pytest.mark.parametrize("module", ["adapters.registry", "adapters.listing", "storage.tiers"])
def test_listings_need_no_torch(module: str) -> None:
    code = f"import sys, diptych.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
