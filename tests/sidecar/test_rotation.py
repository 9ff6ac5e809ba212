"""The identity in use and what replaces it, with a source that is told what to deliver."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshproxy.config import schema, servers, sidecars
from meshproxy.config.fields import WorkloadSubject
from meshproxy.config.values import Address
from meshproxy.devtools.ca import DevelopmentCA, IssuedCertificate
from meshproxy.identity.certificates import CertificateError, Credentials, OwnIdentity, read_bundle
from meshproxy.identity.mesh_context import MeshContext
from meshproxy.identity.trust import Bundle
from meshproxy.sidecar import rotation as module
from meshproxy.sidecar.rotation import BEHIND, IdentityRotation, identity_requirements, load_identity, wait_for_identity
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

DOMAIN = "dev.example"
ID = f"spiffe://{DOMAIN}/ns/a/sa/b"
CA = DevelopmentCA.create(DOMAIN)
FIRST, SECOND = CA.issue(ID), CA.issue(ID)
SERVING_ONLY = CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH])
OUTSIDE = DevelopmentCA.create(DOMAIN).issue(ID)


def credentials(leaf: IssuedCertificate) -> Credentials:
    return Credentials(leaf.certificate_pem, leaf.key_pem, CA.bundle_pem)


def just_valid(spiffe_id: str = ID, start: datetime | None = None) -> IssuedCertificate:
    """Not backdated, as cert-manager issues them."""
    return CA.issue(spiffe_id, not_before=start or datetime.now(UTC))


class FakeSource:
    """Delivers what it is given (`IdentitySource`)."""

    def __init__(self, leaf: IssuedCertificate | None = FIRST) -> None:
        self.leaf = leaf
        self.changed: Callable[[], None] | None = None
        self.stops = 0
        self.before_load: Callable[[], None] = lambda: None
        self.other_bundles: dict[str, Bundle] = {}
        self.more_authorities = b""
        self.problems: tuple[str, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.not_followed = ""

    async def load(self) -> Credentials:
        self.before_load()
        if self.leaf is None:
            raise CertificateError("unreadable", "there is nothing yet")
        found = credentials(self.leaf)
        return replace(
            found,
            bundle_pem=found.bundle_pem + self.more_authorities,
            other_bundles=self.other_bundles,
            problems=self.problems,
            warnings=self.warnings,
            not_followed=self.not_followed,
        )

    def start(self, changed: Callable[[], None]) -> None:
        assert self.changed is None
        self.changed = changed

    def stop(self) -> None:
        self.changed = None
        self.stops += 1

    def change(self, leaf: IssuedCertificate | None) -> None:
        self.leaf = leaf
        assert self.changed is not None
        self.changed()


def identity(name: str) -> sidecars.Identity:
    return sidecars.Identity(files=sidecars.IdentityFiles(certificate=name, key=name, trust_bundle=name))


FAR = schema.ModelServer(
    metadata=schema.Metadata("far"),
    spec=servers.ServerSpec(
        endpoints=(servers.Endpoint(sidecar=Address("10.0.0.1", 18500)),),
        workload=WorkloadSubject(namespace="serving", service_account="tf"),
    ),
)


def documents(
    name: str = "first",
    *,
    mtls: Any = "strict",
    minimum: Any = "1.3",
    domain: str = DOMAIN,
    inbound: bool = True,
    calls: bool = False,
    others: Sequence[str] = (),
) -> schema.Documents:
    spec = schema.MeshSpec(
        trust_domain=domain,
        trust_domains=tuple(schema.TrustedDomain(name, schema.TrustBundle(f"{name}.pem")) for name in others),
        mtls=mtls,
        tls=schema.Tls(min_version=minimum),
    )
    return schema.Documents(
        mesh=schema.MeshConfig(metadata=schema.Metadata("mesh"), spec=spec),
        sidecar=schema.Sidecar(
            metadata=schema.Metadata("own"),
            spec=sidecars.SidecarSpec(
                identity=identity(name),
                inbound=sidecars.Inbound(server="local") if inbound else None,
                outbound=None if inbound else sidecars.Outbound(),
            ),
        ),
        servers=(FAR,) if calls else (),
        fingerprint="",
    )


class World:
    """A rotation with two sources, by the names that documents give them."""

    def __init__(self) -> None:
        self.sources = {"first": FakeSource(), "second": FakeSource(SECOND)}
        self.metrics = SidecarMetrics()
        self.exchanged: list[OwnIdentity] = []
        self.opened: list[list[str]] = []

    def open(self, identity: sidecars.Identity, domains: Sequence[schema.TrustedDomain]) -> FakeSource:
        self.opened.append([domain.name for domain in domains])
        assert identity.files is not None
        return self.sources[identity.files.certificate]

    @property
    def source(self) -> FakeSource:
        return self.sources["first"]

    async def start(self, **options: Any) -> IdentityRotation:
        rotation = IdentityRotation(await load_identity(documents(**options), self.open), self.metrics, self.open)
        rotation.on_exchange = self.exchanged.append
        rotation.start()
        return rotation

    @property
    def in_sync(self) -> float:
        return self.metrics.identity_in_sync.labels().value

    def rotations(self, result: str) -> float:
        return self.metrics.identity_rotations.labels(result).value


@pytest.fixture
def world() -> World:
    return World()


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == module.__name__]


class TestDemand:
    def test_of_directions(self) -> None:
        demands = [
            identity_requirements(documents(inbound=True)),
            identity_requirements(documents(calls=True)),
            identity_requirements(documents(inbound=False)),
        ]
        assert [(each.serves, each.calls) for each in demands if each is not None] == [
            (True, False),
            (True, True),
            (False, True),
        ]

    def test_of_tls(self) -> None:
        found = identity_requirements(documents(mtls="permissive", minimum="1.2", domain="other.example"))
        assert found is not None
        assert (found.mtls, found.minimum_version) == ("permissive", ssl.TLSVersion.TLSv1_2)
        assert (found.trust_domain, found.source) == ("other.example", identity("first"))
        assert identity_requirements(documents(mtls="disabled")) is None


class TestWarnings:
    async def test_what_is_still_so_after_a_rotation_is_not_said_again(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        said = []
        world.source.warnings = ("the key is world-readable",)
        rotation = await world.start()
        for leaf, warnings in ((SECOND, ("the key is world-readable",)), (FIRST, ()), (SECOND, ("so it is again",))):
            said.append(events(caplog).count("the key is world-readable"))
            world.source.leaf, world.source.warnings = leaf, warnings
            await rotation.rotate()
        assert said == [1, 1, 1]
        assert events(caplog).count("so it is again") == 1

    async def test_one_worker_says_them(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.source.warnings = ("the key is world-readable",)
        IdentityRotation(await load_identity(documents(), world.open), world.metrics, world.open, warns=False)
        assert events(caplog) == []


class TestStarting:
    @pytest.mark.parametrize(("mtls", "mode"), [("strict", ssl.CERT_REQUIRED), ("permissive", ssl.CERT_OPTIONAL)])
    async def test_it_is_proven_first(self, world: World, mtls: str, mode: ssl.VerifyMode) -> None:
        rotation = await world.start(mtls=mtls)
        assert rotation.current is not None
        assert rotation.current.server is not None
        assert rotation.current.server.verify_mode is mode
        assert (world.in_sync, world.exchanged) == (1, [])
        assert world.metrics.certificate_expiry.labels().value == rotation.current.workload.not_after
        assert world.metrics.certificate_start.labels().value == rotation.current.not_before < time.time()
        with pytest.raises(OSError, match="no certificate for calls"):
            rotation.client_context()

    async def test_one_that_cannot_be_used_is_an_error(self, world: World) -> None:
        with pytest.raises(CertificateError, match="trust domain"):
            await load_identity(documents(domain="other.example"), world.open)

    async def test_a_worker_that_is_started_again_waits_for_a_good_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "WAIT_SECONDS", 0.001)
        attempts = 0

        def count() -> None:
            nonlocal attempts
            attempts += 1
            world.source.leaf = OUTSIDE if attempts < 4 else SECOND

        world.source.before_load = count
        loaded = await asyncio.wait_for(wait_for_identity(documents(), world.open), 60)
        assert loaded is not None
        assert loaded.credentials == credentials(SECOND)
        assert len(world.opened) == 1  # one that is open already goes on with its agent
        assert events(caplog) == ["certificate rejected; the worker waits for a valid one"]

    async def test_without_tls_there_is_none(self, world: World) -> None:
        rotation = await world.start(mtls="disabled")
        assert rotation.current is None
        assert world.source.changed is None
        await rotation.rotate()
        assert (world.exchanged, world.rotations("failed")) == ([], 0)
        with pytest.raises(OSError, match="no certificate for calls"):
            rotation.client_context()
        rotation.stop()

    async def test_outbound_alone_needs_no_server_usage(self, world: World) -> None:
        world.source.leaf = CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.CLIENT_AUTH])
        rotation = await world.start(inbound=False)
        assert rotation.client_context() is rotation.current.client  # type: ignore[union-attr]
        assert rotation.client_h1_context() is rotation.current.client_h1  # type: ignore[union-attr]


class TestRotating:
    async def test_new_credentials_are_taken_into_use(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        rotation = await world.start(calls=True)
        before = rotation.client_context()
        world.source.leaf = SECOND
        await rotation.rotate()
        assert [each is rotation.current for each in world.exchanged] == [True]
        assert rotation.client_context() is not before
        assert (world.in_sync, world.rotations("ok"), world.rotations("failed")) == (1, 1, 0)
        assert events(caplog) == ["certificate rotated"]

    async def test_the_same_credentials_are_no_rotation(self, world: World) -> None:
        rotation = await world.start()
        await rotation.rotate()
        assert (world.exchanged, world.rotations("ok"), world.in_sync) == ([], 0, 1)

    @pytest.mark.parametrize("bad", [None, OUTSIDE, CA.issue(ID, lifetime=timedelta(seconds=-1))])
    async def test_bad_ones_change_nothing_and_are_said_once(
        self, world: World, bad: IssuedCertificate | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        rotation = await world.start()
        before = rotation.current
        world.source.leaf = bad
        for _ in range(3):
            await rotation.rotate()
        assert (rotation.current, world.exchanged) == (before, [])
        assert (world.in_sync, world.rotations("failed")) == (0, 3)
        assert events(caplog) == ["certificate rejected; keeping the previous one"]
        # The old ones again: nothing is exchanged, and all is well.
        world.source.leaf = FIRST
        await rotation.rotate()
        assert (rotation.current, world.in_sync) == (before, 1)

    async def test_a_defect_changes_nothing_either(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        rotation = await world.start()

        def fail() -> None:
            raise RuntimeError("a defect")

        world.source.before_load = fail
        await rotation.rotate()
        assert (world.in_sync, world.exchanged) == (0, [])
        (record,) = caplog.records
        assert record.exc_info is not None
        assert "a defect" in record.__dict__["fields"]["problem"]

    async def test_it_follows_its_source(self, world: World) -> None:
        rotation = await world.start()
        task = asyncio.ensure_future(rotation.run())
        exchanged = asyncio.Event()
        rotation.on_exchange = lambda identity: exchanged.set()
        world.source.change(SECOND)
        await asyncio.wait_for(exchanged.wait(), 60)
        rotation.stop()
        assert world.source.changed is None
        task.cancel()

    async def test_one_that_is_just_valid_waits_for_the_clocks_of_peers(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        rotation = await world.start()
        world.source.leaf = just_valid()
        start = int(time.time())
        for seconds, is_exchanged in ((0.0, False), (BEHIND - 2, False), (BEHIND + 1, True)):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: start + seconds)
            await rotation.rotate()
            assert (len(world.exchanged), world.in_sync) == (is_exchanged, 1)
        told = [record.__dict__["fields"] for record in caplog.records if "waits" in record.getMessage()]
        assert [fields["seconds"] for fields in told] == [BEHIND, 2.0]

    async def test_it_waits_until_the_middle_of_the_time_in_which_both_are_valid(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.source.leaf = CA.issue(ID, lifetime=timedelta(seconds=20))
        rotation = await world.start()
        world.source.leaf = just_valid()
        start = int(time.time())
        for seconds, is_exchanged in ((8.0, False), (12.0, True)):
            monkeypatch.setattr(time, "time", lambda seconds=seconds: start + seconds)
            await rotation.rotate()
            assert len(world.exchanged) == is_exchanged

    @pytest.mark.parametrize("change", ["bundle", "other bundle", "identity", "expired"])
    async def test_it_does_not_wait_for(self, world: World, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
        if change == "expired":
            world.source.leaf = CA.issue(ID, lifetime=timedelta(seconds=5))
        rotation = await world.start()
        world.source.leaf = just_valid()
        if change == "bundle":
            world.source.more_authorities = DevelopmentCA.create(DOMAIN).bundle_pem
        elif change == "other bundle":
            world.source.other_bundles = {
                "other.example": read_bundle(DevelopmentCA.create("other.example").bundle_pem)
            }
        elif change == "identity":
            world.source.leaf = just_valid(f"spiffe://{DOMAIN}/ns/a/sa/c")
        else:
            now = time.time()
            monkeypatch.setattr(time, "time", lambda: now + 6)
        await rotation.rotate()
        assert len(world.exchanged) == 1

    async def test_it_is_exchanged_when_it_has_waited(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "BEHIND", 0.05)
        rotation = await world.start()
        task = asyncio.ensure_future(rotation.run())
        exchanged = asyncio.Event()
        rotation.on_exchange = lambda identity: exchanged.set()
        # Of a second that has not ended: notBefore has no fractions.
        now = int(time.time())
        loads = 0

        def pass_time() -> None:
            nonlocal loads
            loads += 1
            monkeypatch.setattr(time, "time", lambda: now + 0.04 * loads)

        world.source.before_load = pass_time
        world.source.change(just_valid(start=datetime.fromtimestamp(now, UTC)))
        await asyncio.wait_for(exchanged.wait(), 60)
        assert loads == 2
        task.cancel()

    async def test_a_rejected_one_is_tried_again_without_a_change(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A clock that lags behind the issuer's: the certificate becomes valid by itself."""
        monkeypatch.setattr(module, "AGAIN", 0.005)
        rotation = await world.start()
        task = asyncio.ensure_future(rotation.run())
        exchanged, rejected = asyncio.Event(), asyncio.Event()
        rotation.on_exchange = lambda identity: exchanged.set()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now - 86_400)
        attempts = 0

        def count() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 3:
                rejected.set()

        world.source.before_load = count
        world.source.change(SECOND)
        await asyncio.wait_for(rejected.wait(), 60)
        assert world.in_sync == 0
        monkeypatch.setattr(time, "time", lambda: now)
        await asyncio.wait_for(exchanged.wait(), 60)
        assert world.in_sync == 1
        task.cancel()


async def test_files_that_do_not_change_any_more_are_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is mounted alone and was replaced outside: the certificate expires, and nobody has known."""
    rotation = await world.start()
    world.source.not_followed = "tls.crt: replaced outside"
    for _ in range(3):
        await rotation.rotate()
    assert (world.in_sync, world.exchanged, rotation.problem) == (0, [], "tls.crt: replaced outside")
    assert events(caplog) == ["certificate files are not followed any more"]
    world.source.not_followed = ""
    await rotation.rotate()
    assert (world.in_sync, rotation.problem) == (1, None)


class TestOtherTrustDomains:
    THEIRS: ClassVar[dict[str, Bundle]] = {
        "theirs.example": read_bundle(DevelopmentCA.create("theirs.example").bundle_pem)
    }

    async def test_a_bundle_rotates_with_our_own_certificate_as_it_was(self, world: World) -> None:
        rotation = await world.start(others=["theirs.example"])
        assert world.opened == [["theirs.example"]]
        assert rotation.trusted_domains == {}
        world.source.other_bundles = self.THEIRS
        await rotation.rotate()
        (made,) = world.exchanged
        assert isinstance(made.server, MeshContext)
        assert list(made.server.trust.bundles) == [DOMAIN, "theirs.example"]
        assert rotation.trusted_domains == {"theirs.example": 1}
        await rotation.rotate()
        assert world.exchanged == [made]

    async def test_a_bad_bundle_is_said_once_and_does_not_keep_our_certificate_out(
        self, world: World, caplog: pytest.LogCaptureFixture
    ) -> None:
        rotation = await world.start(others=["theirs.example"])
        world.source.problems = ("theirs.example: bad",)
        for _ in range(3):
            await rotation.rotate()
        assert (world.in_sync, world.exchanged) == (0, [])
        assert events(caplog) == ["trust bundle rejected"]
        world.source.leaf = SECOND
        await rotation.rotate()
        assert (world.in_sync, world.exchanged, world.rotations("failed")) == (0, [rotation.current], 0)
        world.source.problems = ()
        await rotation.rotate()
        assert world.in_sync == 1
        assert events(caplog) == ["trust bundle rejected"]

    async def test_one_that_is_bad_at_the_start_is_said(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.source.problems = ("theirs.example: bad",)
        await world.start(others=["theirs.example"])
        assert (world.in_sync, events(caplog)) == (0, ["trust bundle rejected"])

    async def test_a_reload_adds_and_removes_them(self, world: World) -> None:
        rotation = await world.start()
        world.sources["first"] = other = FakeSource()
        other.other_bundles = self.THEIRS
        rotation.adopt(await rotation.prepare(documents(others=["theirs.example"])))
        assert world.opened == [[], ["theirs.example"]]
        assert rotation.trusted_domains == {"theirs.example": 1}
        world.sources["first"] = FakeSource()
        rotation.adopt(await rotation.prepare(documents()))
        assert rotation.trusted_domains == {}

    async def test_one_is_removed_although_our_own_files_are_bad(self, world: World) -> None:
        world.source.other_bundles = self.THEIRS
        rotation = await world.start(others=["theirs.example"])
        world.sources["first"] = FakeSource(None)
        rotation.adopt(await rotation.prepare(documents()))
        (made,) = world.exchanged
        assert made.workload.spiffe_id == ID
        assert rotation.trusted_domains == {}


class TestReloading:
    async def test_documents_that_require_nothing_else_leave_it_alone(self, world: World) -> None:
        """Whatever the source has by then, also if that is taken into use in the meantime."""
        rotation = await world.start()
        world.source.leaf = None
        prepared = await rotation.prepare(documents())
        assert prepared is not None
        assert prepared.identity is rotation.current
        world.source.leaf = SECOND
        await rotation.rotate()
        rotated = rotation.current
        rotation.adopt(prepared)
        assert rotation.current is rotated
        assert world.exchanged == [rotated]

    async def test_other_settings_make_other_contexts(self, world: World) -> None:
        rotation = await world.start()
        prepared = await rotation.prepare(documents(minimum="1.2"))
        assert world.exchanged == []
        rotation.adopt(prepared)
        (made,) = world.exchanged
        assert made.server is not None
        assert made.server.minimum_version is ssl.TLSVersion.TLSv1_2

    async def test_they_are_made_of_the_credentials_in_use_if_the_source_has_bad_ones(self, world: World) -> None:
        rotation = await world.start()
        world.source.leaf = OUTSIDE
        rotation.adopt(await rotation.prepare(documents(minimum="1.2")))
        (made,) = world.exchanged
        assert made.workload.spiffe_id == ID
        await rotation.rotate()
        assert (world.in_sync, rotation.current) == (0, made)

    async def test_a_rotation_during_a_reload_is_not_undone(self, world: World) -> None:
        rotation = await world.start()
        prepared = await rotation.prepare(documents(minimum="1.2"))
        world.source.leaf = SECOND
        await rotation.rotate()
        rotation.adopt(prepared)
        task = asyncio.ensure_future(rotation.run())
        while len(world.exchanged) < 3:
            await asyncio.sleep(0)
        task.cancel()
        last = world.exchanged[-1]
        assert last is rotation.current
        assert last.serial != prepared.identity.serial  # type: ignore[union-attr]
        assert last.server.minimum_version is ssl.TLSVersion.TLSv1_2  # type: ignore[union-attr]

    async def test_a_reload_during_a_rotation_wins(self, world: World) -> None:
        rotation = await world.start()
        prepared = await rotation.prepare(documents("second"))
        world.source.leaf = OUTSIDE
        world.source.before_load = lambda: rotation.adopt(prepared)
        await rotation.rotate()
        assert rotation.current is prepared.identity  # type: ignore[union-attr]
        assert (world.in_sync, world.rotations("failed")) == (1, 0)

    async def test_credentials_that_are_not_enough_are_an_error(self, world: World) -> None:
        world.source.leaf = SERVING_ONLY
        rotation = await world.start()
        before = rotation.current
        with pytest.raises(CertificateError, match="for outbound"):
            await rotation.prepare(documents(calls=True))
        assert rotation.current is before
        retried: list[str] = []
        rotation.retry_on_change(lambda: retried.append("now"))
        task = asyncio.ensure_future(rotation.run())
        world.source.change(FIRST)
        while not retried:
            await asyncio.sleep(0)
        rotation.adopt(await rotation.prepare(documents(calls=True)))
        assert rotation.client_context() is not None
        world.source.change(SECOND)
        while len(world.exchanged) < 3:
            await asyncio.sleep(0)
        assert retried == ["now"]
        task.cancel()

    async def test_another_source_replaces_the_old_one_when_it_is_good(self, world: World) -> None:
        rotation = await world.start()
        rotation.adopt(await rotation.prepare(documents("second")))
        assert world.source.changed is None
        assert world.sources["second"].changed is not None
        assert len(world.exchanged) == 1
        await rotation.prepare(documents("second"))
        assert world.sources["second"].stops == 0

    async def test_one_of_documents_that_are_rejected_for_something_else_is_stopped(self, world: World) -> None:
        rotation = await world.start()
        other = world.sources["second"]
        assert await rotation.prepare(documents("second")) is not None
        assert other.stops == 0
        await rotation.prepare(documents("second"))  # they are tried again, with another one
        assert other.stops == 1
        rotation.stop()
        assert (other.stops, world.source.stops) == (2, 1)

    async def test_one_that_is_not_good_yet_is_waited_for(self, world: World) -> None:
        rotation = await world.start()
        other = world.sources["second"]
        other.leaf = None
        with pytest.raises(CertificateError):
            await rotation.prepare(documents("second"))
        retried: list[str] = []
        rotation.retry_on_change(lambda: retried.append("now"))
        task = asyncio.ensure_future(rotation.run())
        other.change(SECOND)
        while not retried:
            await asyncio.sleep(0)
        task.cancel()
        assert (world.in_sync, world.exchanged) == (1, [])  # its own is as good as before
        # Documents that name the old one again: the other one is of no interest any more.
        await rotation.prepare(documents())
        assert other.changed is None
        assert world.source.changed is not None
