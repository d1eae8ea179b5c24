"""Tokens name tenants, by their digests."""

import hashlib
from pathlib import Path

import pytest

from diptych.errors import SettingInvalid, TokenRefused
from diptych.rpc.auth import DEFAULT_TENANT, TokenFile, everyone


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
