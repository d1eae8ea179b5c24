"""Tenants of two pools keep their adapters to themselves, and have them in both pools."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pytest

from diptych.clients.adapter_values import AdapterInfo, ImportCall
from diptych.clients.adapters import AdapterClient
from diptych.clients.calls import AdapterChoice, GenerateCall, Latents, RefineCall, Stage
from diptych.clients.events import Picture
from diptych.clients.inference import InferenceClient
from diptych.errors import AdapterNotFound, PeerUnavailable, TenantRefused
from diptych.inference.server import BackgroundServer
from diptych.nano.pair import adapter_path
from support.servers import adapters_of, painter_of, running

TENANTS = ("base-pool", "stray-pool", "studio", "lab")
CALL = GenerateCall(
    base=Stage(prompt="a red circle", guidance_scale=3.0),
    seed=11,
    num_steps=4,
    width=64,
    height=64,
    boundary=0.5,
    output="latents",
)
IN_REFINER = {"base": 0.0}
"""Factors that leave an adapter to the refiner alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """A peer that hosts both experts, and pools that host the base and hand over to it."""

    peer: BackgroundServer
    base: BackgroundServer
    """Trusted by the peer."""
    stray: BackgroundServer
    """Known to the peer, and not trusted."""


def token(tenant: str) -> str:
    return f"the token of {tenant}"


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    home = tmp_path_factory.mktemp("tenants")
    tokens = home / "tokens"
    digests = {tenant: hashlib.sha256(token(tenant).encode()).hexdigest() for tenant in TENANTS}
    tokens.write_text("".join(f"{tenant} {digest}\n" for tenant, digest in digests.items()))

    def pool(tenant: str, peer: BackgroundServer) -> BackgroundServer:
        own = {"refiner_peer": peer.address, "refiner_peer_token": token(tenant)}
        return stack.enter_context(running(str(home), auth_tokens_file=tokens, **own))

    with ExitStack() as stack:
        trusting = running(str(home), auth_tokens_file=tokens, trusted_peers=("base-pool",))
        peer = stack.enter_context(trusting)
        yield Pools(peer=peer, base=pool("base-pool", peer), stray=pool("stray-pool", peer))


@pytest.fixture
def painter(pools: Pools) -> Iterator[Callable[..., InferenceClient]]:
    """Return what makes a client of a pool with a tenant's token, maybe for another tenant."""
    with ExitStack() as stack:
        yield lambda where, owner, tenant=None: stack.enter_context(
            painter_of(getattr(pools, where), token=token(owner), tenant=tenant)
        )


@pytest.fixture
def keeper(pools: Pools) -> Iterator[Callable[[str], AdapterClient]]:
    """Return what makes a client of the base pool's adapters with a tenant's token."""
    with ExitStack() as stack:
        yield lambda tenant: stack.enter_context(adapters_of(pools.base, token=token(tenant)))


@pytest.fixture
def private(keeper: Callable[[str], AdapterClient]) -> AdapterInfo:
    """Return an adapter that only the tenant ``studio`` has."""
    data = adapter_path("night").read_bytes()
    return keeper("studio").import_adapter(
        ImportCall(name="private", source=data, trigger_words=("studio",))
    )


def using(reference: str) -> GenerateCall:
    choice = AdapterChoice(adapter=reference, parts=IN_REFINER)
    return dataclasses.replace(CALL, adapters=[choice])


def stacked(pictures: list[Picture]) -> np.ndarray:
    return np.stack([picture.latents for picture in pictures if picture.latents is not None])


def refining(reference: str) -> RefineCall:
    latents = Latents(values=np.zeros((1, 4, 8, 8), np.float32), family="nano", boundary=0.5)
    return RefineCall(
        refiner=CALL.base,
        source=latents,
        num_steps=4,
        boundary=0.5,
        seed=1,
        adapters=[AdapterChoice(adapter=reference)],
    )


def test_adapters_of_a_tenant_cross_with_its_latents(
    painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    two = painter("base", "studio").generate_images(using("private"))
    one = painter("peer", "studio").generate_images(using("private"))
    without = painter("base", "studio").generate_images(CALL)
    np.testing.assert_allclose(stacked(two), stacked(one), atol=1e-3)
    assert np.abs(stacked(two) - stacked(without)).max() > 0.01


@pytest.mark.parametrize("where", ["base", "peer"])
def test_another_tenant_that_knows_the_digest_does_not_have_the_adapter(
    where: str, painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    painter("base", "studio").generate_images(using("private"))
    with pytest.raises(AdapterNotFound):
        painter(where, "lab").generate_images(using(private.digest))


def test_another_tenant_cannot_refine_with_the_digest(
    painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    with pytest.raises(AdapterNotFound):
        painter("peer", "lab").refine_images(refining(private.digest))
    assert len(painter("peer", "studio").refine_images(refining(private.digest))) == 1


@pytest.mark.parametrize("where", ["base", "peer"])
def test_an_ordinary_caller_cannot_name_another_tenant(
    where: str, painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    with pytest.raises(TenantRefused):
        painter(where, "lab", tenant="studio").refine_images(refining(private.digest))


def test_a_trusted_pool_acts_for_nobody_but_in_refine(
    painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    with pytest.raises(TenantRefused, match="in Generate"):
        painter("peer", "base-pool", tenant="studio").generate_images(using("private"))


def test_a_pool_that_is_not_trusted_hands_no_adapter_over(
    painter: Callable[..., InferenceClient], private: AdapterInfo
) -> None:
    studio = painter("stray", "studio")
    with pytest.raises(PeerUnavailable, match="stray-pool may not act for another tenant"):
        studio.generate_images(using("private"))
    assert len(studio.generate_images(CALL)) == 1


def test_unload_by_one_tenant_leaves_the_pin_of_another(
    keeper: Callable[[str], AdapterClient],
) -> None:
    data = adapter_path("moon").read_bytes()
    studio, lab = keeper("studio"), keeper("lab")
    for owner in (studio, lab):
        owner.import_adapter(ImportCall(name="shared", source=data))
        owner.load("shared")
    unloaded = lab.unload("shared", evict=True).residency
    kept = studio.get("shared").residency
    assert (unloaded.tier, unloaded.pinned) == ("device", False)
    assert (kept.tier, kept.pinned) == ("device", True)
    assert studio.unload("shared", evict=True).residency.tier != "device"


def test_a_tenant_without_a_pin_releases_none(keeper: Callable[[str], AdapterClient]) -> None:
    data = adapter_path("moon").read_bytes()
    studio, lab = keeper("studio"), keeper("lab")
    for owner in (studio, lab):
        owner.import_adapter(ImportCall(name="shared", source=data))
    studio.load("shared")
    with pytest.raises(AdapterNotFound):
        lab.unload("shared")
    assert studio.unload("shared").residency.pinned is False
