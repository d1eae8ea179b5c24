"""An expert that is not hosted is missed by name."""

import dataclasses

import pytest

from diptych.errors import ExpertMissing
from diptych.inference.hosted import Hosted


def test_hosted_base_is_returned(hosted: Hosted) -> None:
    assert hosted.need_base() is hosted.base


def test_absent_base_is_missed(hosted: Hosted) -> None:
    with pytest.raises(ExpertMissing, match="no base expert"):
        dataclasses.replace(hosted, base=None).need_base()


def test_absent_refiner_is_missed(hosted: Hosted) -> None:
    with pytest.raises(ExpertMissing, match="no refiner expert"):
        dataclasses.replace(hosted, refiner=None).need_refiner()


def test_refiner_at_a_peer_is_not_local(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    remote = dataclasses.replace(hosted.refiner, remote=True)
    with pytest.raises(ExpertMissing):
        dataclasses.replace(hosted, refiner=remote).need_refiner(local=True)


def test_refiner_at_a_peer_counts_where_latents_can_be_handed_over(hosted: Hosted) -> None:
    assert hosted.refiner is not None
    remote = dataclasses.replace(hosted.refiner, remote=True)
    assert dataclasses.replace(hosted, refiner=remote).need_refiner() == remote
