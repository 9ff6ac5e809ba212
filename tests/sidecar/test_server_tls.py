"""TLS files of model servers: what is made of them, and how they are exchanged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from meshproxy.config import schema, servers, unreadable
from meshproxy.config.problems import ConfigError
from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar import server_tls as module
from meshproxy.sidecar.server_tls import ServerTlsContexts, check_files, tls_files
from meshproxy.transport.connect_failures import NoCredentials
from tests.processes.waiting import until
from tests.sidecar.test_snapshots import documents

CA = DevelopmentCA.create("models.example")


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_bytes(CA.bundle_pem)
    return path


def server(name: str, tls: servers.ServerTls | None, **changes: Any) -> schema.ModelServer:
    spec = {"endpoints": (servers.Endpoint(rest="a:1", grpc="a:2"),), **changes}
    return schema.ModelServer(metadata=schema.Metadata(name), spec=servers.ServerSpec(tls=tls, **spec))


def grpc(ca_file: Path | None, **more: Any) -> servers.ServerTls:
    return servers.ServerTls(grpc=servers.NamedTls(ca_file=str(ca_file) if ca_file else None, **more))


def of(*several: schema.ModelServer) -> schema.Documents:
    return documents(servers=several)


def test_every_file_that_cannot_be_used_is_named(tmp_path: Path, ca_file: Path) -> None:
    missing = tmp_path / "missing.pem"
    both = servers.ServerTls(
        rest=servers.NamedTls(ca_file=str(missing)),
        grpc=servers.NamedTls(ca_file=str(ca_file), certificate=str(missing), key=str(missing)),
    )
    wrong = of(server("a", both), server("b", grpc(ca_file)), server("c", None))
    with pytest.raises(ConfigError) as caught:
        check_files(wrong)
    assert [(each.document, each.field) for each in caught.value.problems] == [
        ("ModelServer/a", "spec.tls.rest"),
        ("ModelServer/a", "spec.tls.grpc"),
    ]
    assert all(str(missing) in each.message for each in caught.value.problems)
    assert tls_files(wrong) == (missing, ca_file, missing, missing, ca_file)
    check_files(of(server("b", grpc(ca_file))))


def test_each_surface_has_its_own_protocol_and_name(ca_file: Path) -> None:
    contexts = ServerTlsContexts()
    tls = servers.NamedTls(ca_file=str(ca_file))
    static = server("a", servers.ServerTls(rest=tls, grpc=tls))
    named = server("b", grpc(ca_file, server_name="models.example"))
    looked_up = server("c", grpc(ca_file), endpoints=(), dns=servers.Dns(name="serving.example.", grpc=1))
    service = servers.Service(namespace="models", name="resnet", grpc="grpc")
    of_service = server("e", grpc(ca_file), endpoints=(), service=service)
    contexts.build(of(static, named, looked_up, of_service, server("d", None)))
    assert set(contexts.securities(static.spec)) == {"rest", "grpc"}
    assert contexts.securities(server("d", None).spec) == {}
    names = [contexts.securities(each.spec)["grpc"].server_name for each in (static, named, looked_up, of_service)]
    assert names == [None, "models.example", "serving.example", "resnet.models.svc"]


def test_what_stays_the_same_keeps_its_context(ca_file: Path) -> None:
    contexts = ServerTlsContexts()
    first, second = server("a", grpc(ca_file)), server("a", grpc(ca_file), idle_timeout=1.0)
    contexts.build(of(first))
    before = contexts.securities(first.spec)["grpc"].context()
    contexts._alive, contexts._built = contexts._built, {}
    contexts.build(of(second))
    assert contexts.securities(second.spec)["grpc"].context() is before


async def test_new_files_are_used_and_bad_ones_are_not(ca_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    contexts = ServerTlsContexts()
    contexts.build(of(server("a", grpc(ca_file))))
    context = contexts.securities(server("a", grpc(ca_file)).spec)["grpc"].context
    contexts.adopt()
    first = context()
    ca_file.write_bytes(DevelopmentCA.create("models.example").bundle_pem)
    await until(lambda: context() is not first)
    second = context()
    ca_file.write_text("")
    await until(lambda: "keeping the previous ones" in caplog.text)
    assert context() is second
    ca_file.write_bytes(CA.bundle_pem)
    await until(lambda: context() is not second)
    events = [record.getMessage() for record in caplog.records]
    assert events.count("TLS files of a model server applied") == 2
    # Removed: nothing is watched any more, and other documents may name what is there now.
    contexts.build(of())
    contexts.adopt()
    assert contexts._alive == {}
    contexts.stop()


async def test_files_that_could_not_be_read_are_read_again(
    ca_file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Descriptors were short when they were replaced: nothing changes when there are some again."""
    monkeypatch.setattr("meshproxy.config.file_watch.AGAIN", 0.0)
    monkeypatch.setattr("meshproxy.config.file_watch.PERIOD", 0.01)
    contexts = ServerTlsContexts()
    contexts.build(of(server("a", grpc(ca_file))))
    context = contexts.securities(server("a", grpc(ca_file)).spec)["grpc"].context
    contexts.adopt()
    first = context()
    tries = []

    def fail(*arguments: Any) -> Any:
        tries.append(arguments)
        raise CertificateError("unreadable", "Too many open files")

    with monkeypatch.context() as short:
        short.setattr(module, "named_context", fail)
        ca_file.write_bytes(DevelopmentCA.create("models.example").bundle_pem)
        await until(lambda: len(tries) > 1)
    await until(lambda: context() is not first)
    assert caplog.text.count("keeping the previous ones") == 1
    contexts.stop()


async def test_files_that_their_mount_does_not_follow_are_not_applied(
    ca_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    contexts = ServerTlsContexts()
    with ca_file.open() as file:
        mounted = Path(f"/proc/self/fd/{file.fileno()}")
        contexts.build(of(server("a", grpc(mounted))))
        contexts.adopt()
        monkeypatch.setattr(unreadable, "_told", set())
        for each in (module, unreadable):
            monkeypatch.setattr(each, "not_followed", lambda path: "replaced outside")
        ca_file.unlink()  # as when another one is renamed to its name, behind a mount of it
        (context,) = contexts._alive.values()
        context._watch._look()
    assert [record.getMessage() for record in caplog.records] == [f"{mounted} was replaced outside"]
    contexts.stop()


async def test_what_is_in_use_keeps_no_documents_out(ca_file: Path) -> None:
    contexts = ServerTlsContexts()
    wanted = of(server("a", grpc(ca_file)))
    contexts.build(wanted)
    contexts.adopt()
    ca_file.unlink()
    contexts.check(wanted)
    with pytest.raises(ConfigError):
        contexts.check(of(server("a", grpc(ca_file, server_name="other.example"))))
    contexts.stop()


async def test_a_worker_that_is_started_again_waits_for_files(ca_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = ca_file.read_bytes()
    ca_file.unlink()
    contexts = ServerTlsContexts()
    wanted = of(server("a", grpc(ca_file)))
    contexts.build(wanted)
    context = contexts.securities(wanted.servers[0].spec)["grpc"].context
    contexts.adopt()
    with pytest.raises(NoCredentials, match=r"caFile .* cannot be read"):
        context()
    assert "it cannot be called" in caplog.text
    ca_file.write_bytes(content)

    def is_usable() -> bool:
        try:
            return context() is not None
        except NoCredentials:
            return False

    await until(is_usable)
    contexts.stop()
