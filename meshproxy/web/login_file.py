"""The file of `meshproxy control run --login`: who may log in to the page, where, and what they see."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from meshproxy.config.unreadable import tell_not_followed
from meshproxy.identity.jws import ALGORITHMS, canonical_name
from meshproxy.web.permissions import Permission, Role

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
SECRET_BYTES = 4_096
FILE_BYTES = 262_144

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1_024)]
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 appendix A.4


class LoginFileError(Exception):
    """The file cannot be used. The message says why, and what to do."""


class _RoleEntry(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    name: _Text
    sees: Annotated[list[Permission], msgspec.Meta(min_length=1)]
    claims: Annotated[dict[_Text, str | int | bool], msgspec.Meta(min_length=1)]


class _Content(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    address: _Text
    issuer: _Text
    client_id: _Text
    roles: Annotated[list[_RoleEntry], msgspec.Meta(min_length=1, max_length=100)]
    client_secret_file: str | None = None
    ca_file: str | None = None
    algorithms: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)] = ("RS256", "ES256")
    scopes: tuple[str, ...] = ("openid",)


class LoginSettings(msgspec.Struct, frozen=True):
    """What the file says, checked."""

    address: str
    """Where browsers reach the page, without a slash at its end."""
    issuer: str
    client_id: str
    client_secret: str = msgspec.field(default="")
    """As it was at the start. Empty: a public client, which PKCE alone protects."""
    client_secret_file: Path | None = None
    ca_file: Path | None = None
    """Of the issuer's certificate; None: the authorities of this host."""
    algorithms: frozenset[str] = frozenset({"RS256"})
    scopes: tuple[str, ...] = ("openid",)
    roles: tuple[Role, ...] = ()

    def __repr__(self) -> str:
        return f"LoginSettings({self.address!r}, {self.issuer!r}, {self.client_id!r})"

    def current_secret(self) -> str:
        """The client's secret as its file has it now, which a Secret's rotation changes; what it was at the start if
        that cannot be used."""
        if self.client_secret_file is not None:
            with suppress(LoginFileError):
                return _secret(self.client_secret_file)
        return self.client_secret

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach the page over TLS."""
        return self.address.startswith("https:")


def read_login_file(path: Path) -> LoginSettings:
    """Raises LoginFileError."""
    content = _read(path)
    address = content.address.removesuffix("/")
    if urlsplit(_checked_url(address, "address")).path:
        raise LoginFileError(f"{path}: address: the page is at the root of its host: leave the path away")
    for name in content.algorithms:
        if canonical_name(name) not in ALGORITHMS:
            raise LoginFileError(f"{path}: algorithms: {name!r} is none of {', '.join(sorted(ALGORITHMS))}")
    scopes = content.scopes if "openid" in content.scopes else ("openid", *content.scopes)
    if not all(map(_SCOPE.fullmatch, scopes)):
        raise LoginFileError(f"{path}: scopes: each is one word")
    secret_file = Path(content.client_secret_file) if content.client_secret_file is not None else None
    return LoginSettings(
        address=address,
        issuer=_checked_url(content.issuer, "issuer"),
        client_id=content.client_id,
        client_secret=_secret(secret_file) if secret_file is not None else "",
        client_secret_file=secret_file,
        ca_file=Path(content.ca_file) if content.ca_file is not None else None,
        algorithms=frozenset(map(canonical_name, content.algorithms)),
        scopes=scopes,
        roles=tuple(Role(each.name, frozenset(each.sees), each.claims) for each in content.roles),
    )


def _read(path: Path) -> _Content:
    """Raises LoginFileError."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES + 1)
        if len(text) > FILE_BYTES:
            raise LoginFileError(f"{path} is larger than {FILE_BYTES} bytes")
        return msgspec.yaml.decode(text, type=_Content)
    except OSError as error:
        raise LoginFileError(f"{path} cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise LoginFileError(f"{path}: {error}") from None


def _checked_url(url: str, name: str) -> str:
    """The URL. Raises LoginFileError unless it is one of https, or of http on this host."""
    if not is_safe_url(url) or urlsplit(url).query:
        raise LoginFileError(f"{name}: {url!r} is no URL such as https://mesh.example (http: on this host only)")
    return url


def is_safe_url(url: str) -> bool:
    """Whether it is of https, or of http on this host, without user information and fragment."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False
    is_encrypted = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)
    is_plain = url.isascii() and url.isprintable() and " " not in url and "@" not in parts.netloc and "#" not in url
    return is_whole and is_encrypted and is_plain


def _secret(path: Path) -> str:
    """Raises LoginFileError."""
    tell_not_followed(path)
    try:
        with path.open("rb") as file:
            secret = file.read(SECRET_BYTES + 1).strip()
    except OSError as error:
        raise LoginFileError(f"clientSecretFile: {path} cannot be read: {error.strerror}") from None
    if not secret or len(secret) > SECRET_BYTES or not secret.isascii():
        raise LoginFileError(f"clientSecretFile: {path} does not hold one line of text")
    return secret.decode()
