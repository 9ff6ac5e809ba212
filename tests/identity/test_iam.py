from __future__ import annotations

import pytest

from meshproxy.identity.iam import iam_role, is_role, is_sts_issuer

CONTEXT = "https://sts.amazonaws.com/"
OURS = {CONTEXT: {"aws_account": "123456789012"}}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://abc123-def456-ghi789-jkl012.tokens.sts.global.api.aws", True),
        ("http://abc.tokens.sts.global.api.aws", False),
        ("https://.tokens.sts.global.api.aws", False),
        ("https://tokens.sts.global.api.aws", False),
        ("https://abc.tokens.sts.global.api.aws/", False),
        ("https://evil.example/abc.tokens.sts.global.api.aws", False),
        ("https://abc.tokens.sts.global.api.aws.evil.example", False),
        ("https://abctokens.sts.global.api.aws", False),
        ("https://sts.amazonaws.com", False),
        ("", False),
    ],
)
def test_issuers(url: str, expected: bool) -> None:
    assert is_sts_issuer(url) is expected


@pytest.mark.parametrize(
    ("subject", "role"),
    [
        ("arn:aws:iam::123456789012:role/quoter", "arn:aws:iam::123456789012:role/quoter"),
        ("arn:aws:iam::123456789012:role/a/b/quoter", "arn:aws:iam::123456789012:role/a/b/quoter"),
        (
            "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-2/AWSReservedSSO_Admin_c95738f708c1c268",
            "arn:aws:iam::123456789012:role/aws-reserved/sso.amazonaws.com/eu-west-2/AWSReservedSSO_Admin_c95738f708c1c268",
        ),
        ("arn:aws-us-gov:iam::123456789012:role/q", "arn:aws-us-gov:iam::123456789012:role/q"),
        ("arn:aws:sts::123456789012:assumed-role/quoter/i-0abc", "arn:aws:iam::123456789012:role/quoter"),
        ("arn:aws:sts::123456789012:assumed-role/quoter/role=admin", "arn:aws:iam::123456789012:role/quoter"),
        (
            "arn:aws-cn:sts::123456789012:assumed-role/q+w=e,r.t@y-u/abc",
            "arn:aws-cn:iam::123456789012:role/q+w=e,r.t@y-u",
        ),
    ],
)
def test_roles(subject: str, role: str) -> None:
    assert iam_role(subject, OURS) == role
    assert iam_role(subject, {}) == role


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "quoter",
        "arn:aws:iam::123456789012:user/quoter",
        "arn:aws:iam::123456789012:root",
        "arn:aws:sts::123456789012:federated-user/quoter",
        "arn:aws:iam::123456789012:role/",
        "arn:aws:iam::12345678901:role/quoter",
        "arn:aws:iam::1234567890123:role/quoter",
        "arn:aws:iam::\u0661\u0662\u0663456789012:role/quoter",
        "arn:aws:iam:eu:123456789012:role/quoter",
        "arn:aws:iam::123456789012:role/quoter\n",
        "arn:aws:iam::123456789012:role/quo ter",
        "arn:aws:iam::123456789012:role/*",
        "arn:evil:iam::123456789012:role/quoter",
        "arn:aws:sts::123456789012:assumed-role/quoter",
        "arn:aws:sts::123456789012:assumed-role/quoter/",
        "arn:aws:sts::123456789012:assumed-role/quoter/a/b",
        "arn:aws:sts::123456789012:role/quoter",
        "xarn:aws:iam::123456789012:role/quoter",
    ],
)
def test_no_roles(subject: str) -> None:
    assert iam_role(subject, OURS) is None


@pytest.mark.parametrize(
    "claim", [{"aws_account": "999999999999"}, {"aws_account": 123456789012}, {"aws_account": None}, "x", [], None]
)
def test_another_account(claim: object) -> None:
    with pytest.raises(ValueError, match="account"):
        iam_role("arn:aws:iam::123456789012:role/quoter", {CONTEXT: claim})


OF_ACCOUNT = "arn:aws:iam::123456789012:role/"


@pytest.mark.parametrize(
    ("named", "proven", "expected"),
    [
        ("q", "q", True),
        ("a/q", "a/q", True),
        ("q", "p", False),
        ("a/q", "b/q", False),
        ("a/q", "q/a", False),
        ("a/q", "a/p", False),
        ("a/q", None, False),
        # A session has no path, and only one role of the account has the name.
        ("a/b/q", "q", None),
        ("q", "a/b/q", None),
    ],
)
def test_the_role_that_a_document_names(named: str, proven: str | None, expected: bool | None) -> None:
    assert is_role(OF_ACCOUNT + named, proven and OF_ACCOUNT + proven) is expected
    other = "arn:aws:iam::210987654321:role/"
    assert is_role(other + named, proven and OF_ACCOUNT + proven) is False
