"""Who is calling: a bearer token in metadata becomes a tenant, by a file of digests.

A server that hands work over calls with a token of its own, for tenants of its own callers. It may
name such a tenant where its token's tenant is one that the called server trusts with that.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diptych.errors import FieldViolation, SettingInvalid, TenantRefused, TokenRefused

__all__ = ["DEFAULT_TENANT", "TENANT_KEY", "Authenticate", "TokenFile", "Trust", "everyone"]

DEFAULT_TENANT: Final = "default"
"""Tenant of every call where authentication is off."""

TENANT_KEY: Final = "x-diptych-tenant"
"""Metadata that names the tenant a trusted server makes a call for."""

Authenticate = Callable[[Mapping[str, str]], str]
"""Turns a call's metadata into the tenant it belongs to, or raises ``TokenRefused``."""

_TENANT: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def everyone(metadata: Mapping[str, str]) -> str:
    """Return the default tenant for any call: authentication is off."""
    return DEFAULT_TENANT


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Who may act for other tenants, and in which calls; by default nobody in none."""

    peers: frozenset[str] = frozenset()
    """Tenants, as their tokens tell them: those of servers that hand work over to this one."""
    methods: frozenset[str] = frozenset()
    """Names of RPCs, such as ``Refine``."""

    def tenant(self, own: str, metadata: Mapping[str, str], *, method: str) -> str:
        """Return the tenant that a call is for, ``own`` being the one that its token proves.

        Raises:
            TenantRefused: ``metadata`` names another, and ``own`` may not act for it.
        """
        asked = metadata.get(TENANT_KEY, own)
        if asked == own:
            return own
        if own not in self.peers or method not in self.methods:
            raise TenantRefused(f"{own} may not act for another tenant in {method}")
        if _TENANT.fullmatch(asked) is None:
            raise TenantRefused("expected the name of a tenant")
        return asked


class TokenFile:
    """An ``Authenticate`` that knows the tokens whose SHA-256 a file lists.

    Each line is ``<tenant> <sha256 of the token, hex>``; empty lines and lines that begin with
    ``#`` are skipped. The file is read again when it changes, so tokens rotate without a restart.
    """

    def __init__(self, path: Path) -> None:
        """Read ``path`` now.

        Raises:
            SettingInvalid: the file cannot be read or has lines of another form; all are named.
        """
        self._path = path
        self._stamp = self._stat()
        self._tenants = _parse(path)

    def __call__(self, metadata: Mapping[str, str]) -> str:
        """Return the tenant whose token ``metadata`` carries as ``authorization: Bearer``.

        Raises:
            TokenRefused: there is no bearer token, or the file does not list it.
        """
        scheme, _, token = metadata.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise TokenRefused("expected a bearer token, got none")
        self._refresh()
        tenant = self._tenants.get(hashlib.sha256(token.strip().encode()).hexdigest())
        if tenant is None:
            raise TokenRefused("the bearer token is not one this server knows")
        return tenant

    def _refresh(self) -> None:
        """Read the file again if it is another one than before."""
        stamp = self._stat()
        if stamp != self._stamp:
            self._tenants = _parse(self._path)
            self._stamp = stamp

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return found.st_ino, found.st_mtime_ns, found.st_size


def _parse(path: Path) -> dict[str, str]:
    """Return tenant by token digest."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    tenants: dict[str, str] = {}
    wrong: list[FieldViolation] = []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) == 2 and _TENANT.fullmatch(words[0]) and _DIGEST.fullmatch(words[1]):
            tenants[words[1]] = words[0]
        else:
            problem = "expected `<tenant> <sha256 of the token, 64 hex digits>`"
            wrong.append(FieldViolation(field=f"{path.name}:{number}", description=problem))
    if wrong:
        raise SettingInvalid(wrong)
    return tenants


def _unreadable(path: Path, error: Exception) -> SettingInvalid:
    problem = f"{path} cannot be read: {type(error).__name__}"
    return SettingInvalid([FieldViolation(field="token_file", description=problem)])
