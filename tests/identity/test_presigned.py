"""Which pre-signed requests may be sent to STS. botocore has signed those that are fine."""

from __future__ import annotations

import base64
import json
from time import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.identity.presigned import (
    LIFE,
    SKEW,
    CallerIdentity,
    NotPresigned,
    Presigned,
    read_answer,
    read_presigned,
)
from tests.sidecar.sts import AUDIENCE, ROLE, SESSION, STRANGER, as_token, presign
from tests.thorough import tries

HOST = "sts.eu-central-1.amazonaws.com"
NOW = float(int(time()))
URL = presign(HOST, at=NOW)


def read(url: str, now: float = NOW) -> Presigned:
    return read_presigned(as_token(url).encode(), {HOST}, 443, AUDIENCE, now)


def test_a_request_of_botocore() -> None:
    found = read(URL)
    assert (found.host, found.port, found.audience, found.expires) == (HOST, 443, AUDIENCE, NOW + LIFE)
    host, _, query = URL.partition("/?")
    assert host == f"https://{HOST}"
    assert sorted(found.target.removeprefix("/?").split("&")) == sorted(query.split("&"))


def test_neighbours_that_are_fine() -> None:
    assert read(presign(HOST, STRANGER, at=NOW)).host == HOST  # without a session token; STS judges the signature
    assert read(presign(HOST, at=NOW, expires=900)).expires == NOW + LIFE
    assert read(URL.replace("/?", ":443/?")).target == read(URL).target
    assert read(URL.replace("/?", "?")).target == read(URL).target
    first, *rest = URL.partition("?")[2].split("&")
    assert read(f"https://{HOST}/?{'&'.join([*rest, first])}").target == read(URL).target  # the order is ours
    assert read(URL, NOW + LIFE - 1).expires == NOW + LIFE
    assert read(URL, NOW - SKEW).expires == NOW + LIFE


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        pytest.param(URL.replace("https:", "http:"), "not an https URL", id="http"),
        pytest.param(URL.replace(HOST, "evil.example"), "another host", id="host"),
        pytest.param(URL.replace(HOST, f"{HOST}.evil.example"), "another host", id="host-suffix"),
        pytest.param(URL.replace(HOST, f"{HOST}@evil.example"), "not an https URL", id="user"),
        pytest.param(URL.replace(HOST, "169.254.169.254"), "another host", id="metadata-service"),
        pytest.param(URL.replace(HOST, HOST.upper()), "not an https URL", id="case"),
        pytest.param(URL.replace("/?", ":8443/?"), "another host", id="port"),
        pytest.param(URL.replace("/?", "/x?"), "not an https URL", id="path"),
        pytest.param(URL.replace("/?", "/../?"), "not an https URL", id="dots"),
        pytest.param(URL + "#x", "X-Amz-Signature is not allowed", id="fragment"),
        pytest.param(URL + "\r\nx: y", "not an https URL", id="newline"),
        pytest.param(URL.replace("GetCallerIdentity", "AssumeRole"), "Action is not allowed", id="action"),
        pytest.param(URL.replace("Action=", "action="), "parameter that is not allowed", id="case-of-a-name"),
        pytest.param(URL.replace("Action=", "%41ction="), "parameter that is not allowed", id="escaped-name"),
        pytest.param(URL + "&Action=GetCallerIdentity", "one twice", id="twice"),
        pytest.param(URL + "&RoleArn=x", "parameter that is not allowed", id="parameter"),
        pytest.param(URL + "&", "parameter that is not allowed", id="empty-parameter"),
        pytest.param(URL.replace("2011-06-15", "2010-05-08"), "Version is not allowed", id="version"),
        pytest.param(URL.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), "Algorithm is not", id="algorithm"),
        pytest.param(URL.replace("%2Fsts%2F", "%2Fiam%2F"), "Credential is not allowed", id="service"),
        pytest.param(URL.replace("host%3Bx-k8s-aws-id", "host"), "SignedHeaders is not allowed", id="not-bound"),
        pytest.param(presign(HOST, audience=None, at=NOW), "SignedHeaders is not allowed", id="without-audience"),
        pytest.param(presign(HOST, headers={"x-forwarded-for": "1"}, at=NOW), "SignedHeaders is", id="more-headers"),
        pytest.param(presign(HOST, at=NOW, expires=3600), "Expires is not allowed", id="an-hour"),
        pytest.param(presign(HOST, at=NOW - LIFE), "too long ago", id="old"),
        pytest.param(presign(HOST, at=NOW + SKEW + 1), "in the future", id="future"),
        pytest.param(URL.replace("&X-Amz-Signature", "&Signature"), "parameter that is not", id="no-signature"),
        pytest.param(URL.split("&X-Amz-Signature")[0], "has no X-Amz-Signature", id="cut"),
        pytest.param(URL + "A" * 8_192, "larger than", id="large"),
        pytest.param("", "not an https URL", id="empty"),
        pytest.param("Ā", "not base64url", id="not-ascii"),
    ],
)  # fmt: skip
def test_what_is_never_sent(changed: str, word: str) -> None:
    with pytest.raises(NotPresigned, match=word):
        read(changed)


def test_dates() -> None:
    credential_day = URL.split("%2F")[1]
    with pytest.raises(NotPresigned, match="its dates differ"):
        read(URL.replace(f"%2F{credential_day}%2F", "%2F20200101%2F"))
    date = URL.split("X-Amz-Date=")[1][:16]
    with pytest.raises(NotPresigned, match="not a date"):
        read(URL.replace(f"X-Amz-Date={date}", f"X-Amz-Date={credential_day}T256199Z"))


def test_not_base64() -> None:
    for text, word in (
        (b"k8s-aws-v1.", "not an https URL"),
        (b"k8s-aws-v1.aHR0cHM6Ly94eA==", "without padding"),
        (b"k8s-aws-v1.!!", "not base64url"),
    ):
        with pytest.raises(NotPresigned, match=word):
            read_presigned(text, {HOST}, 443, AUDIENCE, NOW)


@settings(max_examples=tries(60), deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(alphabet="AX-amzhttps:/?&=%2F.", max_size=200).map(str.encode)))
def test_whatever_comes_is_read_or_refused(content: bytes) -> None:
    credential = b"k8s-aws-v1." + base64.urlsafe_b64encode(content).rstrip(b"=")
    with pytest.raises(NotPresigned):
        read_presigned(credential, {HOST}, 443, AUDIENCE, NOW)


def answer(**changed: Any) -> bytes:
    result = {"Account": "123456789012", "Arn": SESSION, "UserId": "AROAX:i-1", **changed}
    document = {
        "GetCallerIdentityResponse": {"GetCallerIdentityResult": result, "ResponseMetadata": {"RequestId": "1"}}
    }
    return json.dumps(document).encode()


def test_who_signed() -> None:
    assert read_answer(answer()) == CallerIdentity(SESSION, "123456789012", "AROAX:i-1", ROLE)
    user = "arn:aws:iam::123456789012:user/alice"
    assert read_answer(answer(Arn=user)) == CallerIdentity(user, "123456789012", "AROAX:i-1", None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"<GetCallerIdentityResponse/>",
        b'{"GetCallerIdentityResponse": {}}',
        b'{"GetCallerIdentityResponse": []}',
        answer(Arn=5),
        answer(Arn=None),
        answer(Account="210987654321"),
        answer(Account=""),
        answer(Arn="arn:aws:iam::123456789012:user/a\nb"),
        answer(UserId=""),
        answer(Arn="x"),
    ],
)
def test_answers_that_name_nobody(content: bytes) -> None:
    with pytest.raises(NotPresigned):
        read_answer(content)
