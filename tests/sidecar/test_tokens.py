"""Issuers across reloads. Keys come out of the document, a file, or a development issuer on this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from meshproxy.config import schema
from meshproxy.config.fields import ClaimAtPath
from meshproxy.config.problems import ConfigError
from meshproxy.devtools.issuer import DevelopmentIssuer, SigningKey
from meshproxy.identity.tokens import KeysWanted, TokenVerifier, credential
from meshproxy.refusal import Reason, Refusal
from meshproxy.sidecar import tokens as module
from meshproxy.sidecar.tokens import Tokens
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics
from tests.identity.test_load_balancer import BALANCER, CLIENT, KEY, KID, PLACE, POOL, pem_of
from tests.identity.test_load_balancer import fresh_token as balancer_token

URL = "https://login.dev.example"
ISSUER = DevelopmentIssuer(URL, algorithm="ES256")


class Outbox:
    """Counts batches."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def begin(self) -> None:
        self.log.append("begin")

    def flush(self) -> None:
        self.log.append("flush")


def document(name: str = "corp", keys: schema.KeySource | None = None, **changes: Any) -> schema.Issuer:
    said: dict[str, Any] = {"issuer": URL, "audiences": ("models",), **changes}
    return schema.Issuer(name=name, keys=keys, **said)


def inline(issuer: DevelopmentIssuer = ISSUER) -> schema.KeySource:
    return schema.KeySource(inline=issuer.jwks())


@pytest.fixture
def in_file(tmp_path: Path) -> schema.KeySource:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(ISSUER.jwks()))
    return schema.KeySource(file=str(path))


@asynccontextmanager
async def running() -> AsyncIterator[Tokens]:
    tokens = Tokens(SidecarMetrics(), Outbox())  # type: ignore[arg-type]
    try:
        yield tokens
    finally:
        await tokens.close()


def verify(verifier: TokenVerifier | None, token: str) -> str:
    assert verifier is not None
    return verifier.verify(f"Bearer {token}".encode(), time.time()).subject


async def test_without_issuers_there_is_no_verifier() -> None:
    async with running() as tokens:
        assert tokens.build(()) is None
        tokens.adopt()
        await tokens.wait_for_keys()
        assert tokens.are_known


async def test_keys_in_the_document_are_known_at_once() -> None:
    async with running() as tokens:
        verifier = tokens.build((document(keys=inline()),))
        tokens.adopt()
        assert tokens.are_known
        assert verify(verifier, ISSUER.token("alice")) == "alice"
        with pytest.raises(Refusal):
            verify(verifier, ISSUER.token("alice", aud="others"))


async def test_keys_in_a_file_are_known_when_they_have_been_read(in_file: schema.KeySource) -> None:
    async with running() as tokens:
        verifier = tokens.build((document(keys=in_file),))
        tokens.adopt()
        with pytest.raises(KeysWanted):
            verify(verifier, ISSUER.token("alice"))
        await tokens.wait_for_keys()
        assert tokens.are_known
        assert verify(verifier, ISSUER.token("alice")) == "alice"


async def test_an_issuer_without_audiences_and_subjects() -> None:
    async with running() as tokens:
        required = {"token_use": "access", "scope": "models/predict"}
        issuer = document(keys=inline(), audiences=(), required_claims=required, subject_fallback="client_id")
        verifier = tokens.build((issuer,))
        tokens.adopt()
        given: dict[str, Any] = {"sub": None, "aud": None, "client_id": "app", "scope": "openid models/predict"}
        given["token_use"] = "access"
        assert verify(verifier, ISSUER.sign({}, ISSUER.claims("", **given))) == "app"
        with pytest.raises(Refusal, match="lacks a claim"):
            verify(verifier, ISSUER.sign({}, ISSUER.claims("", **{**given, "token_use": "id"})))


async def test_claims_of_an_issuer_that_lists_of_names_find() -> None:
    name = "https://corp.example/app"
    async with running() as tokens:
        path = ClaimAtPath(path=(name,), exact="mesh")
        issuer = document(keys=inline(), audiences=(), required_claim_paths=(path,), subject_fallback_path=(name,))
        verifier = tokens.build((issuer,))
        tokens.adopt()
        given: dict[str, Any] = {"sub": None, "aud": None, name: "mesh"}
        assert verify(verifier, ISSUER.sign({}, ISSUER.claims("", **given))) == "mesh"
        with pytest.raises(Refusal, match="lacks a claim"):
            verify(verifier, ISSUER.sign({}, ISSUER.claims("", **{**given, name: "other"})))


async def test_keys_behind_a_url_are_fetched() -> None:
    async with DevelopmentIssuer.serve(algorithm="ES256") as issuer, running() as tokens:
        keys = schema.KeySource(url=issuer.keys_url)
        verifier = tokens.build((document(issuer=issuer.issuer, keys=keys),))
        tokens.adopt()
        await tokens.wait_for_keys()
        assert verify(verifier, issuer.token("alice")) == "alice"


async def test_several_issuers_stand_side_by_side(in_file: schema.KeySource) -> None:
    other = DevelopmentIssuer("https://other.example", algorithm="ES256")
    async with running() as tokens:
        verifier = tokens.build(
            (document(keys=in_file), document("other", issuer=other.issuer, keys=inline(other), audiences=("b", "c")))
        )
        tokens.adopt()
        await tokens.wait_for_keys()
        assert verify(verifier, ISSUER.token("alice")) == "alice"
        assert verify(verifier, other.token("bob", aud="c")) == "bob"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (schema.KeySource(inline={"keys": [{"kty": "RSA", "kid": "a"}]}), "its keys: "),
        (schema.KeySource(url="https://login.example:0/keys"), "it is not an https URL"),
    ],
    ids=["in the document", "a URL without a port"],
)
async def test_keys_that_can_never_be_had_are_a_problem_of_the_document(keys: schema.KeySource, said: str) -> None:
    async with running() as tokens:
        with pytest.raises(ConfigError) as caught:
            tokens.build((document(keys=keys),))
        (problem,) = caught.value.problems
        assert problem.field == "issuer corp"
        assert said in problem.message


class Endless:
    """A key set that never comes."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self) -> bytes:
        self.asked += 1
        await asyncio.Event().wait()
        raise AssertionError


class TestStarting:
    async def test_it_waits_for_an_issuer_that_is_away_and_not_for_long(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(module, "FIRST_KEYS_SECONDS", 0.05)
        hang = Endless()
        monkeypatch.setattr(module, "from_file", lambda path: hang)
        async with running() as tokens:
            verifier = tokens.build((document(keys=schema.KeySource(file=str(tmp_path))),))
            tokens.adopt()
            await tokens.wait_for_keys()
            assert not tokens.are_known
            assert hang.asked == 1  # it is still being fetched: those who need it wait for that
            with pytest.raises(KeysWanted):
                verify(verifier, ISSUER.token())

    async def test_issuers_that_hang_do_not_keep_the_others_waiting(
        self, monkeypatch: pytest.MonkeyPatch, in_file: schema.KeySource
    ) -> None:
        """Waiting for them would take an hour."""
        monkeypatch.setattr(module, "FIRST_KEYS_SECONDS", 3_600.0)
        monkeypatch.setattr(module, "OTHER_KEYS_SECONDS", 0.01)
        hang = Endless()
        monkeypatch.setattr(module, "from_url", lambda url, access: hang)
        away = [document(f"away-{n}", issuer=f"https://{n}", keys=schema.KeySource(url="https://x/")) for n in range(3)]
        async with running() as tokens:
            verifier = tokens.build((*away, document(keys=in_file)))
            tokens.adopt()
            async with asyncio.timeout(60):
                await tokens.wait_for_keys()
            assert tokens.are_known
            assert verify(verifier, ISSUER.token("alice")) == "alice"

    @pytest.mark.parametrize("is_first", [True, False])
    async def test_one_issuer_without_keys_leaves_the_others_ready(
        self, in_file: schema.KeySource, tmp_path: Path, is_first: bool
    ) -> None:
        away = document("away", issuer="https://away.example", keys=schema.KeySource(file=str(tmp_path / "nowhere")))
        here = document(keys=in_file)
        async with running() as tokens:
            verifier = tokens.build((away, here) if is_first else (here, away))
            tokens.adopt()
            assert not tokens.are_known
            await tokens.wait_for_keys()
            assert tokens.are_known
            assert verify(verifier, ISSUER.token("alice")) == "alice"
            with pytest.raises(Refusal) as caught:
                verify(verifier, ISSUER.token(iss="https://away.example"))
            assert caught.value.reason is Reason.KEYS_UNAVAILABLE

    async def test_an_issuer_that_fails_is_counted_and_said(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        async with running() as tokens:
            verifier = tokens.build((document(keys=schema.KeySource(file=str(tmp_path / "nowhere"))),))
            tokens.adopt()
            await tokens.wait_for_keys()
            counted = tokens._metrics.jwks_refresh
            assert counted.labels("corp", "failed").value >= 1
            assert counted.labels("corp", "ok").value == 0
            with pytest.raises(Refusal) as caught:
                verify(verifier, ISSUER.token())
            assert caught.value.reason is Reason.KEYS_UNAVAILABLE
        fields: Any = caplog.records[0].__dict__["fields"]
        assert (fields["issuer"], fields["has_keys"]) == ("corp", False)

    async def test_keys_that_are_not_used_are_said_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        path = tmp_path / "jwks.json"
        other = {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "newer"}
        keys = {"keys": [ISSUER.keys[0].public_jwk(), other]}
        path.write_text(json.dumps(keys))
        why = ("key 2: its type or curve is not supported",)
        async with running() as tokens:
            tokens.build(
                (document(keys=schema.KeySource(file=str(path))), document("fixed", schema.KeySource(inline=keys)))
            )
            tokens.adopt()
            await tokens.wait_for_keys()
            assert [each["unused"] for each in tokens.overview()] == [why, why]
            again = asyncio.Event()
            tokens.refresh(KeysWanted("corp"), again.set)
            await again.wait()
            said = [record.__dict__["fields"] for record in caplog.records]
            assert sorted(said, key=lambda fields: fields["issuer"]) == [
                {"issuer": "corp", "keys": list(why)},
                {"issuer": "fixed", "keys": list(why)},
            ]


class TestReloading:
    @pytest.mark.parametrize(
        "changes",
        [{}, {"audiences": ("models", "more")}, {"leeway": 1.0}, {"max_lifetime": 60.0}],
        ids=["nothing", "audiences", "leeway", "lifetime"],
    )
    async def test_keys_stay_as_long_as_they_come_from_the_same_place(
        self, in_file: schema.KeySource, changes: dict[str, Any]
    ) -> None:
        """The issuer may be away just when a document says something else of it."""
        async with running() as tokens:
            tokens.build((document(keys=in_file),))
            tokens.adopt()
            await tokens.wait_for_keys()
            assert in_file.file is not None
            Path(in_file.file).unlink()
            verifier = tokens.build((document(keys=in_file, **changes),))
            tokens.adopt()
            assert tokens.are_known
            assert verify(verifier, ISSUER.token("alice", expires_in=30)) == "alice"

    async def test_a_load_balancer_more_leaves_the_keys_of_the_region(self) -> None:
        def balanced(*arns: str) -> schema.Issuer:
            place = schema.TokenPlace(header="x-amzn-oidc-data")
            return document("people", None, issuer=POOL, audiences=(CLIENT,), load_balancers=arns, token_from=place)

        async with running() as tokens:
            tokens.build((balanced(BALANCER),))
            tokens.adopt()
            (known,) = tokens._known.values()
            tokens.build((balanced(BALANCER[:-1] + "9", BALANCER),))
            assert list(tokens._built.values()) == [known]
            tokens.build((balanced(BALANCER.replace("central", "west")),))
            assert list(tokens._built.values()) != [known]

    async def test_what_else_a_document_says_counts_at_once(self, in_file: schema.KeySource) -> None:
        async with running() as tokens:
            tokens.build((document(keys=in_file),))
            tokens.adopt()
            await tokens.wait_for_keys()
            verifier = tokens.build((document(keys=in_file, audiences=("others",)),))
            tokens.adopt()
            with pytest.raises(Refusal, match="token audience"):
                verify(verifier, ISSUER.token())

    @pytest.mark.parametrize("what", ["algorithms", "keys", "name"])
    async def test_keys_from_elsewhere_are_other_keys(
        self, in_file: schema.KeySource, tmp_path: Path, what: str
    ) -> None:
        async with running() as tokens:
            tokens.build((document(keys=in_file),))
            tokens.adopt()
            await tokens.wait_for_keys()
            changes: dict[str, dict[str, Any]] = {
                "algorithms": {"algorithms": ("ES256",), "keys": in_file},
                "keys": {"keys": schema.KeySource(file=str(tmp_path / "elsewhere"))},
                "name": {"name": "renamed", "keys": in_file},
            }
            tokens.build((document(**changes[what]),))
            tokens.adopt()
            assert not tokens.are_known

    async def test_what_was_built_and_not_adopted_changes_nothing(self, in_file: schema.KeySource) -> None:
        async with running() as tokens:
            verifier = tokens.build((document(keys=in_file),))
            tokens.adopt()
            await tokens.wait_for_keys()
            tokens.build(())
            tokens.build((document("other", keys=in_file),))
            assert tokens.are_known
            assert verify(verifier, ISSUER.token("alice")) == "alice"
            served = asyncio.Event()
            tokens.refresh(KeysWanted("corp"), served.set)
            await served.wait()

    async def test_an_issuer_that_is_gone_is_fetched_no_more(self, in_file: schema.KeySource) -> None:
        async with running() as tokens:
            tokens.build((document(keys=in_file),))
            tokens.adopt()
            await tokens.wait_for_keys()
            (known,) = tokens._known.values()
            task = known.task
            assert task is not None
            tokens.build(())
            tokens.adopt()
            await asyncio.wait((task,))
            assert task.cancelled()
            assert tokens.are_known


class TestUnknownKeys:
    async def test_a_load_balancers_key_is_fetched_when_a_token_names_it(self) -> None:
        """Before that there are none, and the sidecar is ready."""
        fetched = []

        async def get(request: web.Request) -> web.Response:
            fetched.append(request.path)
            return web.Response(body=pem_of(KEY))

        app = web.Application()
        app.add_routes([web.get("/{kid}", get)])
        async with TestServer(app) as server, running() as tokens:
            issuer = document(
                "people",
                schema.KeySource(url=str(server.make_url("/"))),
                issuer=POOL,
                audiences=(CLIENT,),
                load_balancers=(BALANCER,),
                token_from=schema.TokenPlace(header="x-amzn-oidc-data"),
            )
            verifier = tokens.build((issuer,))
            assert verifier is not None
            tokens.adopt()
            await tokens.wait_for_keys()
            assert tokens.are_known
            value = credential(PLACE, balancer_token())
            with pytest.raises(KeysWanted) as wanted:
                verifier.verify(value, time.time())
            served = asyncio.Event()
            tokens.refresh(wanted.value, served.set)
            await served.wait()
            assert verifier.verify(value, time.time()).claims["email"] == "alice@models.example"
            assert fetched == [f"/{KID}"]

    async def test_they_are_fetched_for_who_waits(self) -> None:
        async with DevelopmentIssuer.serve(algorithm="ES256") as issuer, running() as tokens:
            verifier = tokens.build((document(issuer=issuer.issuer, keys=schema.KeySource(url=issuer.keys_url)),))
            tokens.adopt()
            await tokens.wait_for_keys()
            issuer.rotate()
            with pytest.raises(KeysWanted) as wanted:
                verify(verifier, issuer.token("alice"))
            served = asyncio.Event()
            tokens.refresh(wanted.value, served.set)
            await served.wait()
            assert verify(verifier, issuer.token("alice")) == "alice"

    async def test_a_key_that_is_replaced_under_its_kid_is_fetched(self) -> None:
        async with DevelopmentIssuer.serve(algorithm="ES256") as issuer, running() as tokens:
            verifier = tokens.build((document(issuer=issuer.issuer, keys=schema.KeySource(url=issuer.keys_url)),))
            tokens.adopt()
            await tokens.wait_for_keys()
            (old,) = issuer.keys
            issuer.keys = [SigningKey.generate(old.kid, "ES256")]
            with pytest.raises(KeysWanted) as wanted:
                verify(verifier, issuer.token("alice"))
            served = asyncio.Event()
            tokens.refresh(wanted.value, served.set)
            await served.wait()
            assert verify(verifier, issuer.token("alice")) == "alice"
            # The old one is a stranger's now: refused without another fetch.
            with pytest.raises(Refusal, match="signature"):
                verify(verifier, issuer.sign({}, issuer.claims("alice"), old))
            assert issuer.requests == ["/keys", "/keys"]

    async def test_who_waits_is_told_within_a_batch(self, in_file: schema.KeySource) -> None:
        """What it writes then goes out at once."""
        outbox = Outbox()
        tokens = Tokens(SidecarMetrics(), outbox)  # type: ignore[arg-type]
        tokens.build((document(keys=in_file),))
        tokens.adopt()
        told = asyncio.Event()

        def then() -> None:
            outbox.log.append("then")
            told.set()

        tokens.refresh(KeysWanted("corp"), then)
        await told.wait()
        await asyncio.sleep(0)
        assert outbox.log == ["begin", "then", "flush"]
        await tokens.close()

    @pytest.mark.parametrize("name", ["nobody", "corp"])
    async def test_who_waits_for_an_issuer_that_is_gone_is_told_too(self, name: str) -> None:
        async with running() as tokens:
            tokens.build((document(keys=inline()),))
            tokens.adopt()
            told = asyncio.Event()
            tokens.refresh(KeysWanted(name), told.set)
            await told.wait()


async def test_ages_are_those_of_the_keys_in_use(in_file: schema.KeySource) -> None:
    async with running() as tokens:
        tokens.build((document(keys=in_file), document("away", issuer="https://b", keys=schema.KeySource(file="/x"))))
        tokens.adopt()
        await tokens.wait_for_keys()
        assert tokens._metrics.jwks_age.source is not None
        (row,) = tokens._metrics.jwks_age.source()
        assert row is not None
        labels, age = row
        assert labels == ("corp",)
        assert 0 <= age < 60


async def test_closing_leaves_no_task_behind(in_file: schema.KeySource) -> None:
    tokens = Tokens(SidecarMetrics(), Outbox())  # type: ignore[arg-type]
    tokens.build((document(keys=in_file),))
    tokens.adopt()
    tokens.refresh(KeysWanted("corp"), lambda: None)
    await tokens.close()
    await tokens.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}
