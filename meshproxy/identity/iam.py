"""The AWS IAM role behind a token of AWS STS (`sts:GetWebIdentityToken`, IAM outbound identity federation).

Such a token is an ordinary OIDC token of an issuer that belongs to one account; its `sub` is the ARN of the principal,
and further facts of STS are in one claim (IAM User Guide, "Understanding token claims").
"""

from __future__ import annotations

import re
from collections.abc import Mapping

ISSUER_SUFFIX = ".tokens.sts.global.api.aws"
_CLAIM = "https://sts.amazonaws.com/"

# Names and paths as IAM allows them (IAM User Guide, "IAM and AWS STS quotas": names of 64, ARN paths of 512).
_PARTITION = r"(?P<partition>aws[a-z-]{0,20})"
_ROLE = re.compile(rf"arn:{_PARTITION}:iam::(?P<account>[0-9]{{12}}):role/(?P<role>[A-Za-z0-9_+=,.@/-]{{1,576}})")
_ASSUMED = re.compile(
    rf"arn:{_PARTITION}:sts::(?P<account>[0-9]{{12}}):assumed-role/"
    r"(?P<role>[A-Za-z0-9_+=,.@-]{1,64})/[A-Za-z0-9_+=,.@-]{2,64}"
)


def is_sts_issuer(url: str) -> bool:
    """Whether an issuer is AWS STS for some account."""
    host = url.removeprefix("https://")
    return host != url and "/" not in host and host.endswith(ISSUER_SUFFIX) and len(host) > len(ISSUER_SUFFIX)


def role_of(arn: str) -> tuple[str, str] | None:
    """The ARN of the role that an ARN of a role or of its session means, and the account; None for anybody else."""
    match = _ROLE.fullmatch(arn) or _ASSUMED.fullmatch(arn)
    if match is None:
        return None
    return f"arn:{match['partition']}:iam::{match['account']}:role/{match['role']}", match["account"]


def without_path(role: str) -> str:
    """The ARN of a role without the path before its name. It means one role: names are unique in an account, whatever
    the path (IAM User Guide, "IAM and AWS STS quotas")."""
    account, _, name = role.partition(":role/")
    return f"{account}:role/{name.rpartition('/')[2]}"


def is_role(named: str, proven: str | None) -> bool | None:
    """Whether a caller has proven the role that a document names. None if that cannot be told: the names are the same,
    and one of the two ARNs lacks the path, as that of a session does."""
    if named == proven:
        return True
    bare = without_path(named)
    if proven is None or bare != without_path(proven):
        return False
    return None if bare in (named, proven) else False


def iam_role(subject: str, claims: Mapping[str, object]) -> str | None:
    """The ARN of the role, or None if the principal is a user or the account itself.

    A session (`assumed-role/ROLE/SESSION`) becomes its role: the session's name is chosen by the one who assumes the
    role, so it says nothing. Such an ARN does not carry the role's path either; a rule for it names the role without
    one.

    Raises:
        ValueError: `sub` and the claim of STS name different accounts, or the claim is none.
    """
    found = role_of(subject)
    if found is None:
        return None
    role, account = found
    context = claims.get(_CLAIM, {})
    if not isinstance(context, dict) or context.get("aws_account", account) != account:
        raise ValueError("the account of the role is not the account of the claim")
    return role
