"""Sets of documents as a sidecar has received them; `test_control_documents` has them over the wire."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshproxy.config.problems import ConfigError
from meshproxy.config.schema import MeshConfig, MeshSpec, Metadata, ModelRole, RoleSpec, Rule
from meshproxy.config.sent import SentKind, Total, digest, encode, key_of
from meshproxy.config.servers import Endpoint, ModelServer, ServerSpec
from meshproxy.config.sidecars import Inbound, Outbound, Sidecar, SidecarSpec
from meshproxy.control.scope import Held, Selection
from meshproxy.control_api import DocumentSet, SentDocument
from meshproxy.sidecar.control_documents import scope_of
from meshproxy.sidecar.mesh_documents import SLICE, MeshDocuments, NotAsSent

HOME = Path("/home")
OWN = Sidecar(metadata=Metadata("own"), spec=SidecarSpec(outbound=Outbound()))
MESH = MeshConfig(metadata=Metadata("m"), spec=MeshSpec("d.example"))


def role(name: str, model: str = "*") -> ModelRole:
    return ModelRole(metadata=Metadata(name), spec=RoleSpec((Rule((model,), ("predict",)),)))


def sent(*documents: SentKind) -> tuple[SentDocument, ...]:
    return tuple(encode(document, f"{place:06}") for place, document in enumerate(documents))


def version(documents: tuple[SentDocument, ...]) -> str:
    total = Total()
    for each in documents:
        total = total.changed(digest(each))
    return total.version


async def whole(*documents: SentKind) -> MeshDocuments:
    found = sent(*documents)
    return await MeshDocuments.received(DocumentSet(version(found), documents=found), None, HOME)


def roles(mesh: MeshDocuments) -> list[str]:
    return [each.metadata.name for each in mesh.together_with(OWN, "").roles]


async def test_documents_are_in_the_order_of_the_control_plane() -> None:
    found = sent(MESH, role("b"), role("a"))
    mesh = await MeshDocuments.received(DocumentSet(version(found), documents=found[::-1]), None, HOME)
    documents = mesh.together_with(OWN, "f")
    assert [each.metadata.name for each in documents.roles] == ["b", "a"]
    assert (documents.mesh, documents.sidecar, documents.fingerprint) == (MESH, OWN, "f")


async def test_a_change_shares_the_rest() -> None:
    before = await whole(MESH, role("a"), role("b"))
    found = sent(MESH, role("a"), role("b", "resnet"))
    message = DocumentSet(version(found), base=before.version, documents=found[2:])
    after = await MeshDocuments.received(message, before, HOME)
    old, new = before.together_with(OWN, "").roles, after.together_with(OWN, "").roles
    assert new[0] is old[0]
    assert (old[1].spec.rules[0].models, new[1].spec.rules[0].models) == (("*",), ("resnet",))
    gone = DocumentSet(version(found[:2]), base=after.version, removed=("ModelRole/b",))
    assert roles(await MeshDocuments.received(gone, after, HOME)) == ["a"]


async def test_what_does_not_fit_together() -> None:
    before = await whole(MESH)
    found = sent(MESH, role("a"))
    for message, base in (
        (DocumentSet(version(found), base=before.version, documents=found[1:]), None),
        (DocumentSet(version(found), base="another", documents=found[1:]), before),
        (DocumentSet("another", base=before.version, documents=found[1:]), before),
        (DocumentSet(version(found), documents=found[1:]), None),
        (DocumentSet(version(found), documents=(SentDocument("0", msgspec.Raw(b"[]")),)), None),
    ):
        with pytest.raises(NotAsSent):
            await MeshDocuments.received(message, base, HOME)


async def test_a_document_that_cannot_be_used() -> None:
    """As one of a newer control plane. The rest waits with it until it is mended."""
    newer = SentDocument("1", msgspec.Raw(b'{"kind":"ModelRole","metadata":{"name":"n"},"spec":{"dance":1}}'))
    unknown = SentDocument("2", msgspec.Raw(b'{"kind":"ModelDance","metadata":{"name":"d"}}'))
    found = (*sent(MESH), newer, unknown)
    mesh = await MeshDocuments.received(DocumentSet(version(found), documents=found), None, HOME)
    with pytest.raises(ConfigError) as caught:
        mesh.together_with(OWN, "")
    problems = [str(problem) for problem in caught.value.problems]
    assert problems[0].startswith("ModelDance/d: Invalid value 'ModelDance'")
    assert problems[1].startswith("ModelRole/n: Object contains unknown field `dance`")
    removed = DocumentSet(version(found[:1]), base=mesh.version, removed=("ModelRole/n", "ModelDance/d"))
    assert roles(await MeshDocuments.received(removed, mesh, HOME)) == []


async def test_sets_without_what_every_sidecar_needs() -> None:
    with pytest.raises(ConfigError, match="there is no MeshConfig"):
        (await whole(role("a"))).together_with(OWN, "")
    inbound = msgspec.convert(
        {"kind": "Sidecar", "metadata": {"name": "x"}, "spec": {"inbound": {"server": "s"}}}, Sidecar
    )
    with pytest.raises(ConfigError, match='no ModelServer named "s"'):
        (await whole(MESH)).together_with(inbound, "")


def model_server(name: str, *models: str) -> ModelServer:
    return ModelServer(metadata=Metadata(name), spec=ServerSpec((Endpoint(rest="10.0.0.1:1"),), models=models))


def beside(server: str) -> Sidecar:
    return Sidecar(metadata=Metadata("own"), spec=SidecarSpec(inbound=Inbound(server=server), outbound=Outbound()))


@pytest.mark.parametrize("own", [beside("listing"), OWN])
async def test_a_set_for_another_server_is_not_decided_by(own: Sidecar) -> None:
    """What concerns this sidecar has no role in it. Its own document then names a server without a list: all callers
    would be permitted everything, until the control plane has sent more."""
    everything: tuple[SentKind, ...] = (
        MESH,
        role("denying", "fraud"),
        model_server("listing", "churn"),
        model_server("all"),
    )
    scope = scope_of(own)
    selection = Selection(scope, {each.key: each for each in map(held, everything)})
    found = tuple(each.sent for each in selection.documents.values())
    message = DocumentSet(selection.total.version, documents=found, server=scope.server)
    mesh = await MeshDocuments.received(message, None, HOME)
    message = DocumentSet(mesh.version, base=mesh.version)  # of a control plane that does not say
    for each in (mesh, await MeshDocuments.received(message, mesh, HOME), MeshDocuments.kept(mesh.keep(), HOME)):
        assert each.together_with(own, "").roles == ()
        with pytest.raises(ConfigError, match='those for "all" have not come from the control plane yet'):
            each.together_with(beside("all"), "")
    message = DocumentSet(mesh.version, base=mesh.version, server="all")
    assert (await MeshDocuments.received(message, mesh, HOME)).together_with(beside("all"), "").roles == ()


def held(document: SentKind) -> Held:
    return Held.of(document, key_of(document))


async def test_many_documents_leave_turns_to_others() -> None:
    many = [role(f"r{place}") for place in range(2 * SLICE)]
    assert len(roles(await whole(MESH, *many))) == len(many)


async def test_it_is_kept_and_read_again() -> None:
    mesh = await whole(MESH, role("b"), role("a"))
    kept = mesh.keep()
    again = MeshDocuments.kept(kept, HOME)
    assert again.version == mesh.version
    assert again.together_with(OWN, "") == mesh.together_with(OWN, "")
    for damaged in (
        b"",
        kept[:-1],
        kept.replace(b'"digest":"', b'"digest":"x'),
        kept.replace(b'"version":"', b'"version":"0'),
    ):
        with pytest.raises(NotAsSent):
            MeshDocuments.kept(damaged, HOME)
