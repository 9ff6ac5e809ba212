"""A pre-signed `sts:GetCallerIdentity` as a credential: what may be sent to STS, and what its answer says.

The caller signs a request with its AWS credentials and hands it over; who sends it to STS learns who signed it. The
form is that of `aws eks get-token` and aws-iam-authenticator: `k8s-aws-v1.` and the URL in base64url. STS is the judge
of the signature, so everything else is judged here, before anything is sent: a URL of a stranger must not make this
process call another host, another action, or STS with parameters whose meaning nobody looked at. What is sent is built
anew from the parts that passed. Sources: AWS General Reference, "Signature Version 4"; STS API Reference,
`GetCallerIdentity`; aws-iam-authenticator, pkg/token/token.go.

The signed header `x-k8s-aws-id` says whom the request was made for: without it, whoever receives such a request could
use it here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from meshproxy.identity.iam import role_of
from meshproxy.identity.jose import decode_base64url, load_object

PREFIX = b"k8s-aws-v1."
CREDENTIAL_BYTES = 8_192
"""With the session token of a role it has 1,500 to 3,000."""
LIFE = 900.0
"""Seconds from its date for which STS accepts such a request, whatever `X-Amz-Expires` says (botocore says 60)."""
SKEW = 60.0
"""Seconds that the caller's clock may be ahead."""
AUDIENCE_HEADER = b"x-k8s-aws-id"
ANSWER_BYTES = 16_384

_URL = re.compile(r"https://([a-z0-9.-]{1,253})(?::([0-9]{1,5}))?/?\?([\x21-\x7e]+)")
_PARAMETERS: dict[str, re.Pattern[str]] = {
    "Action": re.compile(r"GetCallerIdentity"),
    "Version": re.compile(r"2011-06-15"),
    "X-Amz-Algorithm": re.compile(r"AWS4-HMAC-SHA256"),
    "X-Amz-Credential": re.compile(r"[A-Z0-9]{16,128}%2F(?P<day>[0-9]{8})%2F[a-z0-9-]{1,32}%2Fsts%2Faws4_request"),
    "X-Amz-Date": re.compile(r"(?P<day>[0-9]{8})T[0-9]{6}Z"),
    "X-Amz-Expires": re.compile(r"[1-9][0-9]{0,2}"),
    "X-Amz-SignedHeaders": re.compile(r"host%3Bx-k8s-aws-id"),
    "X-Amz-Security-Token": re.compile(r"(?:[A-Za-z0-9._~-]|%2B|%2F|%3D){1,6000}"),
    "X-Amz-Signature": re.compile(r"[0-9a-f]{64}"),
}
"""Every parameter that may be there, and the whole of its value as it is written."""
_OPTIONAL = frozenset({"X-Amz-Security-Token"})
_USER_ID = re.compile(r"[\x21-\x7e]{1,256}")


class NotPresigned(ValueError):
    """It is not a request that may be sent to STS, or not an answer of STS. Says why, and quotes nothing."""


class Presigned(msgspec.Struct, frozen=True):
    """A request that may be sent."""

    host: str
    port: int
    target: str
    """Path and query, built of what passed."""
    audience: str
    """The value of `AUDIENCE_HEADER`."""
    expires: float
    """When STS refuses it, seconds since the epoch."""


class CallerIdentity(msgspec.Struct, frozen=True):
    """Who signed a request, as STS says."""

    arn: str
    account: str
    user_id: str
    role: str | None
    """The ARN of the role; None for a user, or the account itself."""


def read_presigned(credential: bytes, hosts: Iterable[str], port: int, audience: str, now: float) -> Presigned:
    """The request in a credential, if it may be sent.

    Args:
        credential: with `PREFIX`.
        hosts: of STS, in lower case.
        port: of these hosts.
        audience: what the signed header must be.
        now: seconds since the epoch.

    Raises:
        NotPresigned: it may not.
    """
    if len(credential) > CREDENTIAL_BYTES:
        raise NotPresigned(f"it is larger than {CREDENTIAL_BYTES} bytes")
    try:
        url = decode_base64url(credential.removeprefix(PREFIX)).decode("ascii")
    except ValueError:
        raise NotPresigned("it is not base64url without padding") from None
    match = _URL.fullmatch(url)
    if match is None:
        raise NotPresigned("it is not an https URL with a query")
    if match[1] not in hosts or int(match[2] or 443) != port:
        raise NotPresigned("it is for another host than those of aws.callerIdentity")
    values = _read_query(match[3])
    if values["X-Amz-Date"][:8] != values["X-Amz-Credential"].split("%2F")[1]:
        raise NotPresigned("its dates differ")
    signed = _seconds(values["X-Amz-Date"])
    if not signed - SKEW <= now < signed + LIFE:
        raise NotPresigned("it was signed too long ago, or in the future")
    query = "&".join(f"{name}={values[name]}" for name in _PARAMETERS if name in values)
    return Presigned(match[1], port, f"/?{query}", audience, signed + LIFE)


def _read_query(query: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        allowed = _PARAMETERS.get(name)
        if allowed is None or name in values:
            raise NotPresigned("it has a parameter that is not allowed, or one twice")
        if not allowed.fullmatch(value):
            raise NotPresigned(f"its {name} is not allowed")
        values[name] = value
    if missing := _PARAMETERS.keys() - values.keys() - _OPTIONAL:
        raise NotPresigned(f"it has no {min(missing)}")
    return values


def _seconds(date: str) -> float:
    """Of `YYYYMMDDThhmmssZ`, since the epoch."""
    parts = [int(date[start:end]) for start, end in ((0, 4), (4, 6), (6, 8), (9, 11), (11, 13), (13, 15))]
    year, month, day, hour, minute, second = parts
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except ValueError:
        raise NotPresigned("its X-Amz-Date is not a date") from None


def read_answer(content: bytes) -> CallerIdentity:
    """Who STS says has signed (`GetCallerIdentity` with `accept: application/json`). Raises NotPresigned."""
    try:
        answer = load_object(content)
    except ValueError as error:
        raise NotPresigned(f"the answer of STS cannot be read: {error}") from None
    for name in ("GetCallerIdentityResponse", "GetCallerIdentityResult"):
        inner = answer.get(name)
        if not isinstance(inner, dict):
            raise NotPresigned(f"the answer of STS has no {name}")
        answer = inner
    arn, account, user_id = answer.get("Arn"), answer.get("Account"), answer.get("UserId")
    if not (isinstance(arn, str) and isinstance(account, str) and isinstance(user_id, str)):
        raise NotPresigned("the answer of STS names nobody")
    if not arn.isprintable() or not arn.isascii() or len(arn) > 1_024 or not _USER_ID.fullmatch(user_id):
        raise NotPresigned("the answer of STS names nobody")
    if arn.split(":")[4:5] != [account] or not account.isdigit():
        raise NotPresigned("the answer of STS names two accounts")
    role = role_of(arn)
    return CallerIdentity(arn, account, user_id, role[0] if role is not None else None)
