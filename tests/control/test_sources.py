"""Where documents come from: files."""

from __future__ import annotations

import asyncio
import errno
import os
import pwd
from pathlib import Path

import pytest

from meshproxy.config.files import Written
from meshproxy.control import sources as module
from meshproxy.control.sources import DocumentSource, Files


async def test_only_what_has_changed_is_given(tmp_path: Path) -> None:
    a, b = (str(tmp_path / f"{name}.yaml") for name in ("a", "b"))
    for name in (a, b):
        Path(name).write_text(name)
    source: DocumentSource = Files([str(tmp_path)])
    first, problems = await source.read()
    assert {name: each and each.content for name, each in first.items()} == {a: a.encode(), b: b.encode()}
    assert problems == []
    Path(b).write_text("B!")
    second, _ = await source.read()
    assert {name: each and each.content for name, each in second.items()} == {b: b"B!"}
    Path(a).unlink()
    third, _ = await source.read()
    assert third == {a: None}
    assert await source.read() == ({}, [])


async def test_relative_paths_are_those_of_the_sidecars(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    sources, _ = await Files([str(tmp_path)]).read()
    (source,) = sources.values()
    assert source is not None
    assert source.folder / "keys.json" == Path("keys.json")


async def test_who_wrote_a_file_and_when(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a")
    os.utime(path, (1_796_042_683, 1_796_042_683))
    sources, _ = await Files([str(tmp_path)]).read()
    (source,) = sources.values()
    assert source is not None
    owner = pwd.getpwuid(os.getuid()).pw_name
    assert source.written == Written(owner, "2026-11-30T12:44:43Z", is_software=False)


async def test_what_cannot_be_read(tmp_path: Path) -> None:
    source = Files([str(tmp_path), str(tmp_path / "missing")])
    assert source.name == f"{tmp_path}, {tmp_path / 'missing'}"
    sources, problems = await source.read()
    assert sources == {}
    assert [problem.message.partition(":")[0] for problem in problems] == [
        "no *.yaml, *.yml or *.json in this folder",
        "cannot be read",
    ]


async def test_changes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a")
    source = Files([str(tmp_path)])
    changed = asyncio.Event()
    source.start(changed.set)
    path.write_text("b")
    os.utime(path, (1, 1))
    async with asyncio.timeout(60):
        await changed.wait()
    source.stop()


async def test_a_mixture_of_two_times_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that changes between the first file and the last."""
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in paths:
        path.write_text("1")
    newer = ["22", "333"]

    def read(path: Path) -> bytes:
        content = path.read_bytes()
        if path == paths[0] and newer:
            text = newer.pop(0)
            for each in paths:
                each.write_text(text)
        return content

    monkeypatch.setattr(module, "read_file", read)
    found, _ = await Files([str(tmp_path)]).read()
    assert [source and source.content for source in found.values()] == [b"333", b"333"]


async def test_what_the_system_could_not_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role that is taken away while descriptors are short: no file changes when there are some again."""
    monkeypatch.setattr("meshproxy.config.file_watch.AGAIN", 0.0)
    monkeypatch.setattr(module, "PERIOD", 0.01)
    path = tmp_path / "a.yaml"
    path.write_text("a")
    source = Files([str(tmp_path)])
    changed = asyncio.Event()
    with monkeypatch.context() as short:
        short.setattr(module, "read_file", _fail)
        _, (problem,) = await source.read()
    assert problem.message == f"cannot be read: {os.strerror(errno.EMFILE)}"
    source.start(changed.set)
    async with asyncio.timeout(60):
        await changed.wait()
    changed.clear()
    assert list((await source.read())[0]) == [str(path)]
    path.unlink()
    path.mkdir()  # what is wrong with files themselves changes when they do
    await source.read()
    source._watch._look()
    assert not changed.is_set()
    source.stop()


def _fail(path: Path) -> bytes:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
