"""What a reload may change, and what documents mention. Reloads themselves are in test_app.py, with real parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from meshproxy.config import routes, schema, sidecars
from meshproxy.config.codes import Code
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.telemetry import Telemetry, Traces
from meshproxy.config.values import Address
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar import configuration as module
from meshproxy.sidecar.configuration import Compiled, Configuration, check_fixed, mentioned
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics


def documents(
    mtls: Any = "strict", sets: dict[str, Any] | None = None, mesh: dict[str, Any] | None = None, **sidecar: Any
) -> schema.Documents:
    spec = {"inbound": sidecars.Inbound(server="local"), **sidecar}
    return schema.Documents(
        mesh=schema.MeshConfig(
            metadata=schema.Metadata("mesh"),
            spec=schema.MeshSpec(trust_domain="dev.example", mtls=mtls, **(mesh or {})),
        ),
        sidecar=schema.Sidecar(metadata=schema.Metadata("own"), spec=sidecars.SidecarSpec(**spec)),
        fingerprint="",
        **(sets or {}),
    )


HERE = Address("127.0.0.1", 1)


@pytest.mark.parametrize(("directions", "share"), [(("inbound",), 21), (("inbound", "outbound"), 10)])
def test_both_directions_share_the_descriptors(
    directions: Sequence[str], share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DOWNSTREAM_CONNECTIONS", 21)
    snapshots: dict[str, Any] = dict.fromkeys(directions)
    assert Compiled(documents(), snapshots, None).max_connections == share
    limited = documents(mesh={"limits": schema.MeshLimits(connections=7)})
    assert Compiled(limited, snapshots, None).max_connections == 7


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (documents(inbound=sidecars.Inbound(server="local", listen=HERE)), "spec.inbound.listen"),
        (documents(inbound=None, outbound=sidecars.Outbound()), "spec.inbound.listen"),
        (documents(outbound=sidecars.Outbound()), "spec.outbound.listen"),
        (documents(admin=sidecars.Admin(listen=HERE)), "spec.admin.listen"),
        (documents(workers=2), "spec.workers"),
        (documents(access_log="off"), "spec.accessLog"),
        (documents(audit_log="stdout"), "spec.auditLog"),
        (documents(mtls="permissive"), "spec.mtls"),
    ],
)
def test_what_sockets_and_files_depend_on_needs_a_restart(changed: schema.Documents, field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_fixed(documents(), changed)
    assert [problem.field for problem in caught.value.problems][:1] == [field]
    assert caught.value.problems[0].message.endswith("restart the sidecar to apply it")


def test_everything_else_may_change() -> None:
    files = sidecars.IdentityFiles(certificate="/a", key="/b", trust_bundle="/c")
    check_fixed(documents(), documents(drain_timeout=1.0, identity=sidecars.Identity(files=files)))
    check_fixed(documents(), documents(mesh={"telemetry": Telemetry(Traces(endpoint="http://collector"))}))


def test_models_versions_and_labels_that_documents_name() -> None:
    rules = (
        schema.Rule(models=("a", "b*"), verbs=("predict",), versions=("7",)),
        schema.Rule(models=("a",), verbs=("predict",), labels=("x",)),
    )
    role = schema.ModelRole(metadata=schema.Metadata("r"), spec=schema.RoleSpec(rules=rules))
    route = schema.ModelRoute(
        metadata=schema.Metadata("r"),
        spec=routes.RouteSpec(
            models=("c",),
            labels={"stable": "3"},
            split=(routes.Destination(weight=1, version="4"), routes.Destination(weight=1, label="canary")),
            mirror=routes.Mirror(version="5", model="d"),
            fallback=routes.Fallback(model="e", version="6"),
        ),
    )
    models, versions = mentioned(documents(sets={"roles": (role,), "routes": (route,)}))
    assert models == ["a", "b*", "a", "c", "d", "e"]
    assert sorted(versions) == ["3", "4", "5", "6", "7", "canary", "x"]


class Unloaded:
    """A source whose documents cannot be loaded (`DocumentSource`)."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self.loads = 0
        self.loaded_often = asyncio.Event()
        self.refusals: list[list[str]] = []
        self.is_to_retry = False

    async def load(self) -> schema.Documents:
        self.loads += 1
        if self.loads == 4:
            self.loaded_often.set()
        raise ConfigError((Problem("", 0, "", "", "no descriptors", self.code),))

    def start(self, changed: Callable[[], None]) -> None:
        changed()

    def stop(self) -> None: ...

    def applied(self, documents: schema.Documents) -> None: ...

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        self.refusals.append(list(problems))
        self.is_to_retry = is_to_retry


def configuration(source: Unloaded) -> Configuration:
    """One that gets no farther than its source."""
    unused: dict[str, Any] = dict.fromkeys(
        ("clusters", "live", "tokens", "tracing", "identity", "access_log", "audit_log")
    )
    return Configuration(source, documents(), SidecarMetrics(), downstream=[], **unused)


async def test_what_could_not_be_loaded_is_tried_again_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without descriptors or memory for a moment: no file changes when there are some again."""
    monkeypatch.setattr(module, "AGAIN", 0.0)
    made = configuration(source := Unloaded(Code.NOT_LOADED))
    made.start()
    running = asyncio.create_task(made.run())
    await asyncio.wait_for(source.loaded_often.wait(), 60)
    assert len(source.refusals) == len(caplog.records) == 1
    made.request()  # somebody asks: the answer is in the log
    while len(source.refusals) < 2:
        await asyncio.sleep(0)
    running.cancel()
    assert len(caplog.records) == 2


class Loaded(Unloaded):
    """A source whose documents can be loaded."""

    async def load(self) -> schema.Documents:
        return documents()


@pytest.mark.parametrize(
    "error",
    [
        CertificateError("unreadable", "Too many open files"),
        ConfigError((Problem("", 0, "", "", "Too many open files", Code.UNUSABLE_TLS),)),
    ],
)
async def test_certificates_that_cannot_be_used_now_are_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is there a change when descriptors are there again, or a certificate becomes valid."""
    monkeypatch.setattr(module, "AGAIN", 0.0)
    made = configuration(source := Loaded(Code.NOT_LOADED))
    tries = asyncio.Semaphore(0)

    def fail(documents: schema.Documents) -> None:
        tries.release()
        raise error

    monkeypatch.setattr(made, "_clusters", SimpleNamespace(check=fail))
    monkeypatch.setattr(made, "_identity", SimpleNamespace(retry_on_change=lambda then: None))
    made.start()
    running = asyncio.create_task(made.run())
    async with asyncio.timeout(60):
        for _ in range(3):
            await tries.acquire()
    running.cancel()
    made._forget_awaited()
    assert len(caplog.records) == 1
    assert source.is_to_retry  # or what is loaded next are the documents before, which are good


async def test_what_is_wrong_with_documents_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN", 0.0)
    made = configuration(source := Unloaded(Code.UNREADABLE))
    made.start()
    running = asyncio.create_task(made.run())
    for _ in range(20):
        await asyncio.sleep(0)
    running.cancel()
    assert source.loads == 1
