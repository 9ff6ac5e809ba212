"""The caller that `meshproxy policy explain` asks about: as options say it, or as a certificate and a token have it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Generic, TypeVar

import click

from meshproxy.cli import _options
from meshproxy.identity.keys import IssuerKeys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from meshproxy.config import schema
    from meshproxy.config.policy_set import PolicySet
    from meshproxy.identity.caller import Token, Workload
    from meshproxy.identity.jwk import Key

T = TypeVar("T")

FILE_BYTES = 1 << 20
TIMES = ("exp", "iat", "nbf", "auth_time")
"""Claims that are shown as times (RFC 7519 section 4.1, OpenID Connect Core section 2)."""
MOST_SHOWN = 300
"""Characters of one claim."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """A certificate or a token, or that there is none."""

    word: str
    """What its facts are headed by."""
    what: str
    found: T | None = None
    problem: str = ""
    """Why a sidecar refuses it; empty if it does not."""
    facts: tuple[tuple[str, str], ...] = ()
    """What is in it."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """Both parts of a caller."""

    workload: Part[Workload]
    token: Part[Token]

    @property
    def refused(self) -> list[Part[Workload] | Part[Token]]:
        """The parts that a sidecar refuses."""
        return [part for part in (self.workload, self.token) if part.problem]


# The certificate


def from_id(documents: PolicySet, domain: str, spiffe_id: str | None) -> Part[Workload]:
    """The workload of a SPIFFE ID, which is assumed to be proven. `domain`: the trust domain of the mesh."""
    from meshproxy.config.values import read_spiffe_id
    from meshproxy.identity.caller import workload_of

    if spiffe_id is None:
        if documents.mesh is not None and documents.mesh.spec.mtls == "strict":
            click.echo(
                "note: mtls is strict, so a sidecar refuses a caller without a certificate during the TLS handshake",
                err=True,
            )
        return _certificate()
    _check_mtls(documents, "--as")
    try:
        workload = workload_of(read_spiffe_id(spiffe_id))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--as") from None
    trusted = _trusted(documents, domain)
    if workload.trust_domain not in trusted:
        message = f"{workload.trust_domain} is not a trust domain of the mesh (there are: {', '.join(trusted)})"
        raise click.BadParameter(message, param_hint="--as")
    return _certificate(workload)


def from_certificate(documents: PolicySet, domain: str, path: Path) -> Part[Workload]:
    """The workload of a certificate, PEM or DER, as a sidecar reads it."""
    from meshproxy.identity.peer import PeerRefused, PeerRole, other_trust_domain, read_svid
    from meshproxy.identity.pem import read_certificates

    _check_mtls(documents, "--cert")
    content = _read(path)
    try:
        der = read_certificates(content)[0] if b"-----BEGIN" in content else content
    except (ValueError, IndexError) as error:
        raise click.BadParameter(f"no certificate in PEM: {error}", param_hint="--cert") from None
    try:
        workload = read_svid(der, time.time(), PeerRole.CLIENT)
    except PeerRefused as error:
        return _certificate(problem=error.message)
    facts = (("SPIFFE ID", workload.spiffe_id), ("valid until", _moment(workload.not_after)))
    notes = ("the signature of the certificate is not checked: a sidecar does, with the bundle of its trust domain",)
    trusted = _trusted(documents, domain)
    if workload.trust_domain not in trusted:
        return _certificate(None, other_trust_domain(workload.trust_domain, trusted).message, facts, notes)
    return _certificate(workload, "", facts, notes)


def _certificate(
    found: Workload | None = None,
    problem: str = "",
    facts: tuple[tuple[str, str], ...] = (),
    notes: tuple[str, ...] = (),
) -> Part[Workload]:
    return Part("cert", "the certificate", found, problem, facts, notes)


def _check_mtls(documents: PolicySet, option: str) -> None:
    if documents.mesh is not None and documents.mesh.spec.mtls == "disabled":
        raise click.UsageError(f"{option} has no effect: mtls is disabled, so sidecars see no certificates")


def _trusted(documents: PolicySet, domain: str) -> list[str]:
    mesh = documents.mesh
    return [domain, *(each.name for each in mesh.spec.trust_domains)] if mesh is not None else [domain]


# The token


def from_claims(documents: PolicySet, issuer: str | None, claims: str | None, iam_role: str | None) -> Part[Token]:
    """A token of this issuer with these claims, which are assumed to be proven."""
    from meshproxy.config.values import read_role_arn
    from meshproxy.identity.caller import Token

    if issuer is None:
        if claims is not None or iam_role is not None:
            raise click.UsageError("--claims and --iam-role need --issuer")
        return _token()
    if documents.mesh is not None:
        _check_issuer(documents.mesh.spec.issuers, issuer, "--issuer")
    try:
        read = json.loads(claims or "{}")
        if not isinstance(read, dict):
            raise ValueError("expected an object")
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"not a JSON object: {error}", param_hint="--claims") from None
    role = _options.read(read_role_arn, iam_role, "--iam-role") if iam_role is not None else None
    return _token(Token(issuer, str(read.get("sub", "?")), read, float("inf"), role))


def from_token(documents: PolicySet, path: Path, key_sets: Sequence[str]) -> Part[Token]:
    """The token in a file, as a sidecar verifies it."""
    from meshproxy.identity.tokens import TokenVerifier, credential
    from meshproxy.refusal import Refusal
    from meshproxy.sidecar.tokens import issuer_of

    if documents.mesh is None:
        raise click.UsageError("--token needs the MeshConfig, which has the issuers")
    issuers = documents.mesh.spec.issuers
    given = dict(_key_set(each, issuers) for each in key_sets)
    keys = {each.name: _keys(each, given.get(each.name)) for each in issuers}
    compact = _read(path).strip()
    if compact[:7].lower() == b"bearer ":
        compact = compact[7:].strip()
    verifier = TokenVerifier([issuer_of(each, keys[each.name]) for each in issuers])
    claims = _decoded(compact, 1)
    named = _issuer_of(_decoded(compact, 0), claims, issuers)
    try:
        place = named.token_from.name if named is not None and named.token_from is not None else None
        value = b"Bearer " + compact if place is None else credential(place, compact)
        token = verifier.verify(value, time.time())
    except Refusal as refusal:
        return _token(None, refusal.message, tuple(_shown(claims)), tuple(_hints(claims, named, issuers)))
    facts = tuple(_shown(claims)) + ((("IAM role", token.iam_role),) if token.iam_role is not None else ())
    if not isinstance(keys[token.issuer], _UncheckedKeys):
        return _token(token, "", facts)
    note = (
        f"the signature of the token is not checked: the keys of issuer {token.issuer} are behind a URL; give "
        f"--jwks {token.issuer}=FILE"
    )
    return _token(token, "", facts, (note,))


def _token(
    found: Token | None = None,
    problem: str = "",
    facts: tuple[tuple[str, str], ...] = (),
    notes: tuple[str, ...] = (),
) -> Part[Token]:
    return Part("claim", "the token", found, problem, facts, notes)


class _UncheckedKeys(IssuerKeys):
    """The keys of an issuer that are not at hand: whatever a token names is one, and its signature is not looked at."""

    def find(self, kid: str | None, algorithm: str) -> Key:
        from meshproxy.identity.jwk import Key

        class Unchecked(Key):
            def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
                return True

        return Unchecked(kid, self.algorithms, (), None)


def _keys(issuer: schema.Issuer, key_set: bytes | None) -> IssuerKeys:
    """The keys of an issuer: those given, or else those that the document has or names a file of."""
    from pathlib import Path

    from meshproxy.sidecar.tokens import algorithms_of

    source, algorithms = issuer.keys, algorithms_of(issuer)
    if key_set is None and source is not None and source.inline is not None:
        key_set = json.dumps(source.inline).encode()
    if key_set is None and source is not None and source.file is not None and Path(source.file).exists():
        key_set = _read(Path(source.file))
    if key_set is None:
        return _UncheckedKeys(issuer.name, algorithms, refresh=None)
    keys = IssuerKeys(issuer.name, algorithms, refresh=None)
    keys.take(key_set, time.time(), 0.0)
    if keys.problem is not None:
        raise click.ClickException(f"the keys of issuer {issuer.name}: {keys.problem}")
    return keys


def _key_set(text: str, issuers: Sequence[schema.Issuer]) -> tuple[str, bytes]:
    from pathlib import Path

    name, equals, path = text.partition("=")
    if not equals:
        raise click.BadParameter(f"expected ISSUER=FILE, got {text!r}", param_hint="--jwks")
    _check_issuer(issuers, name, "--jwks")
    return name, _read(Path(path))


def _check_issuer(issuers: Sequence[schema.Issuer], name: str, option: str) -> None:
    from meshproxy.config.problems import closest

    known = [each.name for each in issuers]
    if name not in known:
        hint = closest(name, known) or f" (there are: {', '.join(known) or 'none'})"
        raise click.BadParameter(f'the MeshConfig has no issuer "{name}"{hint}', param_hint=option)


def _issuer_of(
    header: Mapping[str, object], claims: Mapping[str, object], issuers: Sequence[schema.Issuer]
) -> schema.Issuer | None:
    """Whose token it says it is. A load balancer says it in the header, and several issuers may share its `iss`."""
    signer = header.get("signer")
    iss = claims.get("iss") if signer is None else header.get("iss", claims.get("iss"))
    those = [each for each in issuers if each.issuer == iss]
    if signer is None:
        those.sort(key=lambda each: bool(each.load_balancers))
    else:
        those.sort(key=lambda each: (signer not in each.load_balancers, not each.load_balancers))
    return those[0] if those else None


def _decoded(compact: bytes, part: int) -> Mapping[str, object]:
    """Header (0) or claims (1) of a token, whether or not it is valid; none if they cannot be read."""
    from meshproxy.identity.jose import decode_base64url, load_object

    try:
        return load_object(decode_base64url(compact.split(b".")[part].rstrip(b"=")))  # a load balancer's has padding
    except (ValueError, IndexError):
        return {}


def _shown(claims: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Claims, one a line, as JSON; times in words."""
    for name, value in claims.items():
        text = json.dumps(value)
        if name in TIMES and type(value) in (int, float):
            text += f" ({_moment(value)})"  # type: ignore[arg-type]
        yield name[:MOST_SHOWN], text[:MOST_SHOWN] + ("..." if len(text) > MOST_SHOWN else "")


def _hints(
    claims: Mapping[str, object], issuer: schema.Issuer | None, issuers: Sequence[schema.Issuer]
) -> Iterator[str]:
    """What the mesh demands of a token: a sidecar does not tell callers."""
    if not claims:
        return
    if issuer is None:
        known = ", ".join(f"{each.name} ({each.issuer})" for each in issuers) or "none"
        yield f"iss is compared character for character; the issuers of the MeshConfig are: {known}"
        return
    if issuer.load_balancers:
        yield f"issuer {issuer.name} demands one of these as signer, in the header: {', '.join(issuer.load_balancers)}"
    if issuer.audiences:
        member = "client, in the header" if issuer.load_balancers else "aud"
        yield f"issuer {issuer.name} demands one of these as {member}: {', '.join(issuer.audiences)}"
    named = [*issuer.required_claims, *(" / ".join(each.path) for each in issuer.required_claim_paths)]
    if named:
        yield f"issuer {issuer.name} demands the claims {', '.join(named)} (requiredClaims, requiredClaimPaths)"


def _moment(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return "no date"


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES)
    except OSError as error:
        raise click.ClickException(f"{path}: cannot be read: {error.strerror}") from None
