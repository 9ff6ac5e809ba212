"""AWS STS as far as pre-signed `GetCallerIdentity` goes: botocore checks the signatures, and makes them."""

from __future__ import annotations

import base64
import datetime
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import botocore.auth
from aiohttp import web
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

AUDIENCE = "models-prod"
REGION = "eu-central-1"
ROLE = "arn:aws:iam::123456789012:role/batch-scorer"
SESSION = "arn:aws:sts::123456789012:assumed-role/batch-scorer/i-0123456789abcdef0"
CREDENTIALS = Credentials("ASIAEXAMPLEEXAMPLE12", "a-secret-of-the-role", "session/token+of==the-role")
STRANGER = Credentials("AKIASTRANGERSTRANGER", "whatever")


def presign(
    host: str,
    credentials: Credentials = CREDENTIALS,
    *,
    audience: str | None = AUDIENCE,
    headers: Mapping[str, str] | None = None,
    query: str = "Action=GetCallerIdentity&Version=2011-06-15",
    at: float | None = None,
    expires: int = 60,
) -> str:
    """A URL as `aws eks get-token` makes it."""
    named = {"x-k8s-aws-id": audience} if audience is not None else {}
    request = AWSRequest("GET", f"https://{host}/?{query}", headers={**named, **(headers or {})})
    signer = SigV4QueryAuth(credentials, "sts", REGION, expires=expires)
    now = datetime.datetime.fromtimestamp(at, datetime.UTC) if at is not None else datetime.datetime.now(datetime.UTC)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=now.replace(tzinfo=None)):
        signer.add_auth(request)
    return str(request.url)


def as_token(url: str) -> str:
    """The URL as a bearer token."""
    return "k8s-aws-v1." + base64.urlsafe_b64encode(url.encode()).rstrip(b"=").decode()


class FakeSts:
    """Answers as STS does; `requests` are those that came, and `status` is what it answers instead."""

    def __init__(self) -> None:
        self.host = ""
        self.requests: list[str] = []
        self.status: int | None = None
        self.identity = {"Account": "123456789012", "Arn": SESSION, "UserId": "AROAEXAMPLE:i-0123456789abcdef0"}

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(str(request.rel_url))
        if self.status is not None:
            return web.json_response({}, status=self.status)
        query = parse_qs(urlsplit(str(request.rel_url)).query)
        signed_at = datetime.datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
        again = presign(
            request.headers["host"], audience=request.headers.get("x-k8s-aws-id"), at=signed_at.timestamp(),
            expires=int(query["X-Amz-Expires"][0]),
        )  # fmt: skip
        ours = parse_qs(urlsplit(again).query)
        age = datetime.datetime.now(datetime.UTC) - signed_at
        if ours["X-Amz-Signature"] != query["X-Amz-Signature"] or age > datetime.timedelta(minutes=15):
            return web.json_response({"Error": {"Code": "SignatureDoesNotMatch"}}, status=403)
        return web.json_response({"GetCallerIdentityResponse": {"GetCallerIdentityResult": self.identity}})

    @classmethod
    @asynccontextmanager
    async def serve(cls, tls: ssl.SSLContext) -> AsyncIterator[FakeSts]:
        """Listens on `localhost` over TLS until the end of the block."""
        sts = cls()
        application = web.Application()
        application.add_routes([web.get("/", sts._answer)])
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
            sts.host = f"localhost:{runner.addresses[0][1]}"
            yield sts
        finally:
            await runner.cleanup()
