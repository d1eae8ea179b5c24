"""Tokens name tenants, by their digests."""

import hashlib
from pathlib import Path

import pytest

from diptych.errors import SettingInvalid, TenantRefused, TokenRefused
from diptych.rpc.auth import DEFAULT_TENANT, TENANT_KEY, TokenFile, Trust, everyone


def line(tenant: str, token: str) -> str:
    return f"{tenant} {hashlib.sha256(token.encode()).hexdigest()}\n"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# who may call\n\n" + line("studio", "s3cret") + line("lab-2", "other"))
    return path


def test_without_authentication_everyone_is_the_default_tenant() -> None:
    assert everyone({}) == DEFAULT_TENANT


@pytest.mark.parametrize("header", ["Bearer s3cret", "bearer  s3cret "])
def test_token_names_its_tenant(tokens: Path, header: str) -> None:
    assert TokenFile(tokens)({"authorization": header}) == "studio"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic s3cret", "s3cret"])
def test_call_without_bearer_token_is_refused(tokens: Path, header: str) -> None:
    with pytest.raises(TokenRefused, match="expected a bearer token"):
        TokenFile(tokens)({"authorization": header})


def test_unknown_token_is_refused_without_repeating_it(tokens: Path) -> None:
    with pytest.raises(TokenRefused) as caught:
        TokenFile(tokens)({"authorization": "Bearer guess"})
    assert "guess" not in str(caught.value)


def test_digest_in_the_file_is_not_itself_a_token(tokens: Path) -> None:
    digest = hashlib.sha256(b"s3cret").hexdigest()
    with pytest.raises(TokenRefused):
        TokenFile(tokens)({"authorization": f"Bearer {digest}"})


def test_new_token_counts_without_a_restart(tokens: Path) -> None:
    authenticate = TokenFile(tokens)
    tokens.write_text(line("studio", "a newer and longer one"))
    assert authenticate({"authorization": "Bearer a newer and longer one"}) == "studio"


def test_removed_token_is_refused_without_a_restart(tokens: Path) -> None:
    authenticate = TokenFile(tokens)
    tokens.write_text(line("lab-2", "other"))
    with pytest.raises(TokenRefused):
        authenticate({"authorization": "Bearer s3cret"})


def test_every_bad_line_is_named(tokens: Path) -> None:
    tokens.write_text(line("ok", "t") + "Capital " + 64 * "0" + "\nshort 00\nthree words here\n")
    with pytest.raises(SettingInvalid) as caught:
        TokenFile(tokens)
    assert [v.field for v in caught.value.violations] == ["tokens:2", "tokens:3", "tokens:4"]


def test_missing_file_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingInvalid, match="FileNotFoundError"):
        TokenFile(tmp_path / "none")


POOLS = Trust(peers=frozenset({"base-pool"}), methods=frozenset({"Refine"}))


def test_call_that_names_no_tenant_is_for_its_tokens() -> None:
    assert POOLS.tenant("base-pool", {}, method="Refine") == "base-pool"


def test_trusted_peer_acts_for_the_tenant_it_names() -> None:
    assert POOLS.tenant("base-pool", {TENANT_KEY: "studio"}, method="Refine") == "studio"


@pytest.mark.parametrize("own", ["lab", DEFAULT_TENANT])
def test_nobody_else_acts_for_another_tenant(own: str) -> None:
    with pytest.raises(TenantRefused, match=f"{own} may not act for another tenant in Refine"):
        POOLS.tenant(own, {TENANT_KEY: "studio"}, method="Refine")


def test_trusted_peer_acts_for_nobody_in_other_calls() -> None:
    with pytest.raises(TenantRefused, match="in DeleteAdapter"):
        POOLS.tenant("base-pool", {TENANT_KEY: "studio"}, method="DeleteAdapter")


def test_naming_ones_own_tenant_needs_no_trust() -> None:
    assert Trust().tenant("lab", {TENANT_KEY: "lab"}, method="Generate") == "lab"


@pytest.mark.parametrize("name", ["", "../lab", "Lab", "a/b", 64 * "a"])
def test_trusted_peer_that_names_no_tenant_is_refused(name: str) -> None:
    with pytest.raises(TenantRefused, match="expected the name of a tenant"):
        POOLS.tenant("base-pool", {TENANT_KEY: name}, method="Refine")
