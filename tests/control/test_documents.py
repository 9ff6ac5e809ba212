"""The documents of the mesh."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config.files import Source
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.control import texts
from meshproxy.control.documents import MeshDocuments
from meshproxy.control.scope import Change
from tests.background import running
from tests.processes.waiting import until

API = "apiVersion: meshproxy.dev/v1alpha1\n"
MESH = f"{API}kind: MeshConfig\nmetadata: {{name: m}}\nspec: {{trustDomain: m.example}}\n"
SERVER = f"{API}kind: ModelServer\nmetadata: {{name: s}}\nspec: {{endpoints: [{{rest: 'a:1'}}]}}\n"
ROUTE = f"{API}kind: ModelRoute\nmetadata: {{name: r}}\nspec: {{models: ['*'], server: s}}\n"
SIDECAR = f"{API}kind: Sidecar\nmetadata: {{name: x}}\nspec: {{inbound: {{server: s}}}}\n"


class Texts:
    """A source of texts in memory (`DocumentSource`)."""

    name = "the texts"
    problem = ""
    is_whole = True

    def __init__(self, **texts: str) -> None:
        self.sources: dict[str, Source] = {}
        self._different: dict[str, None] = {}
        self.changed: Callable[[], None] = lambda: None
        for name, text in texts.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        self.put(Source(Path(name), text.encode(), is_named=True, root=Path()))

    def put(self, source: Source) -> None:
        self.sources[source.name] = source
        self._different[source.name] = None
        self.changed()

    def delete(self, name: str) -> None:
        self.sources.pop(name, None)
        self._different[name] = None

    async def read(self) -> tuple[Mapping[str, Source | None], Sequence[Problem]]:
        different, self._different = self._different, {}
        return {name: self.sources.get(name) for name in different}, []

    def start(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def stop(self) -> None:
        self.changed = lambda: None


class World:
    def __init__(self, **texts: str) -> None:
        self.texts = Texts(**texts)
        self.documents = MeshDocuments(self.texts)
        self.changes: list[dict[str, str]] = []
        self.documents.listeners.append(
            lambda changes: self.changes.append({each.key: became(each) for each in changes})
        )

    async def problems(self) -> str:
        await self.documents.reload()
        return "\n".join(str(problem) for problem in self.documents.problems)


def became(change: Change) -> str:
    return "new" if change.before is None else "gone" if change.after is None else "changed"


@pytest.fixture
async def world() -> World:
    world = World(mesh=MESH, models=f"{SERVER}---\n{ROUTE}")
    await world.documents.first()
    return world


async def test_the_first_set(world: World) -> None:
    everything = {"MeshConfig/m": "new", "ModelServer/s": "new", "ModelRoute/r": "new"}
    assert world.changes == [everything]
    assert list(world.documents.held) == list(everything)
    assert world.documents.text == f"{MESH}\n---\n{SERVER}---\n{ROUTE}"
    again = World(models=f"{SERVER}---\n{ROUTE}", mesh=MESH)
    await again.documents.first()
    assert again.documents.version == world.documents.version
    assert [each.sent.order for each in world.documents.held.values()] == [
        "mesh\x00000\x00000000",
        "models\x00000\x00000000",
        "models\x00000\x00000001",
    ]


async def test_another_control_plane_may_have_them_elsewhere(world: World) -> None:
    other = World()
    for name, source in world.texts.sources.items():
        other.texts.write(f"elsewhere/{name}", source.content.decode())
    await other.documents.first()
    assert other.documents.version == world.documents.version


async def test_texts_of_the_same_name_have_an_order(world: World) -> None:
    world.texts.write("b/routes", ROUTE)
    world.texts.write("a/routes", ROUTE.replace("name: r", "name: first").replace("'*'", "a"))
    world.texts.write("models", SERVER)
    await world.documents.reload()
    orders = {key: held.sent.order for key, held in world.documents.held.items()}
    assert orders["ModelRoute/first"] < orders["ModelRoute/r"]


async def test_a_change_is_what_has_changed(world: World) -> None:
    first, route = world.documents.version, world.documents.held["ModelRoute/r"]
    world.texts.write("models", f"{SERVER.replace('a:1', 'a:2')}---\n{ROUTE}")
    await world.documents.reload()
    assert world.changes[1:] == [{"ModelServer/s": "changed"}]
    assert world.documents.held["ModelRoute/r"] is route
    assert world.documents.version != first
    world.texts.write("models", f"# for people\n{SERVER}---\n{ROUTE}")
    await world.documents.reload()
    assert world.documents.version == first
    world.texts.write("models", SERVER)
    world.texts.write("routes", ROUTE)
    await world.documents.reload()
    assert world.changes[3:] == [{"ModelRoute/r": "changed"}]  # it has another place among the others
    world.texts.delete("routes")
    await world.documents.reload()
    assert world.changes[4:] == [{"ModelRoute/r": "gone"}]


async def test_only_texts_that_have_changed_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    parse = texts.parse  # type: ignore[attr-defined]

    def watched(source: Source, *others: object) -> None:
        read.append(source.name)
        parse(source, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(texts, "parse", watched)
    world.texts.write("models", SERVER)
    await world.documents.reload()
    await world.documents.reload()
    assert read == ["models"]


async def test_what_is_wrong_without_a_sidecar(world: World) -> None:
    texts = world.texts
    texts.write("models", ROUTE.replace("server: s", "server: t") + "---\n" + SERVER)
    assert 'no ModelServer named "t"' in await world.problems()
    texts.write("models", f"{SERVER}---\n{SIDECAR}")
    assert "a sidecar reads its own document from a file of its own" in await world.problems()
    texts.delete("mesh")
    texts.write("models", SERVER)
    assert await world.problems() == "the texts: there is no MeshConfig"
    texts.write("mesh", f"{MESH}---\n{SERVER}")
    assert "duplicate name, first at mesh:6" in await world.problems()
    assert world.documents.text == f"{MESH}\n---\n{SERVER}---\n{ROUTE}"


async def test_sets_that_are_too_large(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "SET_BYTES", 10)
    assert "larger than 0 MiB" in await world.problems()


async def test_the_last_good_set_stays_in_force(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    following = asyncio.create_task(world.documents.follow())
    await asyncio.sleep(0)
    version = world.documents.version
    changed = asyncio.Event()
    world.documents.listeners.append(lambda changes: changed.set())
    world.texts.write("models", "kind: Nothing\n")
    async with asyncio.timeout(60):
        while not world.documents.problems:
            await asyncio.sleep(0)
    await world.documents.reload()
    assert world.documents.version == version
    world.texts.write("models", SERVER)
    async with asyncio.timeout(60):
        await changed.wait()
    await world.documents.reload()
    assert world.documents.problems == ()
    assert world.documents.version != version
    assert [record.message for record in caplog.records] == [
        "documents rejected; sidecars keep the previous ones",
        "documents changed",
    ]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_first_set_must_be_good() -> None:
    with pytest.raises(ConfigError):
        await World(mesh=MESH, models="kind: Nothing\n").documents.first()


STEPS = st.lists(
    st.dictionaries(
        st.sampled_from(["a/one", "b/one", "two"]),
        st.none()
        | st.lists(
            st.sampled_from(
                [MESH, SERVER, SERVER.replace("a:1", "a:2"), ROUTE, ROUTE.replace("name: r", "name: q"), "["]
            ),
            max_size=3,
        ).map("---\n".join),
        min_size=1,
    ),
    max_size=6,
)
"""Each replaces some texts, or removes them."""


@given(STEPS)
async def test_what_comes_of_changes_is_what_there_is_from_the_start(steps: list[dict[str, str | None]]) -> None:
    world = World(first=MESH)
    await world.documents.first()
    for step in steps:
        for name, text in step.items():
            if text is None:
                world.texts.delete(name)
            else:
                world.texts.write(name, text)
        before = world.documents.version
        await world.documents.reload()
        anew = World()
        for source in world.texts.sources.values():
            anew.texts.put(source)
        await anew.documents.reload()
        assert world.documents.problems == anew.documents.problems
        assert world.documents.version == (before if anew.documents.problems else anew.documents.version)
        assert bool(world.documents.held_back) <= bool(anew.documents.problems)
        assert world.documents._namesakes == anew.documents._namesakes  # nothing is remembered of what is gone
        if not anew.documents.problems:
            assert {key: each.sent for key, each in world.documents.held.items()} == {
                key: each.sent for key, each in anew.documents.held.items()
            }
            assert world.documents.text == anew.documents.text


ROLE = f"{API}kind: ModelRole\nmetadata: {{name: readers}}\nspec: {{rules: [{{models: [a], verbs: [predict]}}]}}\n"
BINDING = f"""{API}kind: ModelRoleBinding
metadata: {{name: b}}
spec: {{role: readers, subjects: [{{ipBlocks: [10.0.0.0/8]}}]}}
"""


class Objects(World):
    """The same, of which each text has an author of its own."""

    def __init__(self, *texts: str) -> None:
        super().__init__()
        self.texts.is_whole = False
        self.write(*texts)

    def write(self, *texts: str) -> None:
        for text in texts:
            kind, name = (re.search(rf"{field}: (\w+)", text) for field in ("kind", "name"))
            assert kind is not None
            assert name is not None
            self.texts.write(f"{kind[1]}/{name[1]}", text)

    def delete(self, name: str) -> None:
        self.texts.delete(name)

    async def follow(self) -> str:
        """The names of what is in force."""
        await self.documents.reload()
        return " ".join(sorted(self.documents.held))

    @property
    def said(self) -> str:
        return "\n".join(map(str, self.documents.problems))


class TestObjects:
    async def test_a_change_with_a_problem_holds_up_no_other(self, caplog: pytest.LogCaptureFixture) -> None:
        it = Objects(MESH, SERVER, ROUTE)
        assert await it.follow() == "MeshConfig/m ModelRoute/r ModelServer/s"
        route = it.documents.held["ModelRoute/r"]
        it.write(ROUTE.replace("server: s", "server: t"), SERVER.replace("a:1", "a:2"))
        assert await it.follow() == "MeshConfig/m ModelRoute/r ModelServer/s"
        assert it.changes[1:] == [{"ModelServer/s": "changed"}]
        assert it.documents.held["ModelRoute/r"] is route
        assert it.documents.held_back == {"ModelRoute/r"}
        assert 'no ModelServer named "t"' in it.said
        assert caplog.records[-1].__dict__["fields"]["held_back"] == ["ModelRoute/r"]
        it.write(SERVER.replace("name: s", "name: t"))
        assert await it.follow() == "MeshConfig/m ModelRoute/r ModelServer/s ModelServer/t"
        assert it.documents.problems == ()
        assert it.documents.held_back == set()

    async def test_what_others_refer_to_stays_in_force_when_it_is_deleted(self) -> None:
        it = Objects(MESH, ROLE, BINDING)
        await it.follow()
        it.delete("ModelRole/readers")
        it.write(SERVER)
        assert await it.follow() == "MeshConfig/m ModelRole/readers ModelRoleBinding/b ModelServer/s"
        assert it.documents.held_back == {"ModelRole/readers"}
        assert 'no ModelRole named "readers"' in it.said
        it.delete("ModelRoleBinding/b")
        assert await it.follow() == "MeshConfig/m ModelServer/s"

    async def test_at_the_start_a_route_may_be_left_out(self) -> None:
        it = Objects(MESH, ROUTE, ROLE, BINDING.replace("role: readers", "role: writers"))
        assert await it.follow() == "MeshConfig/m ModelRole/readers"
        assert it.documents.held_back == {"ModelRoute/r", "ModelRoleBinding/b"}

    @pytest.mark.parametrize(
        "text",
        [BINDING.replace("spec: {", "spec: {action: deny, "), ROLE.replace("predict", "guess"), BINDING, "kind: ["],
        ids=["a denial", "a role", "the only binding", "anything"],
    )
    async def test_but_nothing_that_might_deny(self, text: str) -> None:
        it = Objects(MESH)
        it.texts.write("ModelRole/x", text)
        assert await it.follow() == ""
        assert it.documents.problems != ()
        it.delete("ModelRole/x")
        assert await it.follow() == "MeshConfig/m"
        it.texts.write("ModelRole/x", text)  # what was never in force, later on
        assert await it.follow() == "MeshConfig/m"

    async def test_without_a_mesh_config_nothing_changes(self) -> None:
        it = Objects(MESH, SERVER)
        await it.follow()
        it.delete("MeshConfig/m")
        it.delete("ModelServer/s")
        assert await it.follow() == "MeshConfig/m ModelServer/s"
        assert it.said == "the texts: there is no MeshConfig"

    async def test_a_second_mesh_config_is_held_back(self) -> None:
        it = Objects(MESH)
        await it.follow()
        it.write(MESH.replace("name: m", "name: a"))
        assert await it.follow() == "MeshConfig/m"
        assert it.documents.held_back == {"MeshConfig/a"}

    async def test_they_are_followed_although_the_first_are_of_no_use(self) -> None:
        it = Objects(SERVER)
        async with running(it.documents.follow()):
            await until(lambda: it.documents.problems)
            it.write(MESH)
            await until(lambda: it.documents.held)
