"""Documents from files, and the last good set of any source."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshproxy.config.codes import Code
from meshproxy.config.files import files_of
from meshproxy.config.load import load
from meshproxy.config.problems import ConfigError, Problem
from meshproxy.config.schema import Documents
from meshproxy.devtools.local_mesh import environment
from meshproxy.sidecar import document_source
from meshproxy.sidecar.document_source import DocumentSource, FileDocuments, LastGoodDocuments, SharedDocuments
from meshproxy.sidecar.worker import NEWEST, read_documents, write_documents

TEXT = yaml.safe_dump_all(environment("127.0.0.1:1", mtls="disabled"))


class FakeSource:
    """A source that is told what to deliver (`DocumentSource`)."""

    def __init__(self, outcome: Documents | ConfigError) -> None:
        self.outcome = outcome
        self.changed: Callable[[], None] | None = None
        self.acknowledged: list[Documents] = []
        self.problems: list[str] = []

    async def load(self) -> Documents:
        if isinstance(self.outcome, ConfigError):
            raise self.outcome
        return self.outcome

    def start(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    def stop(self) -> None:
        self.changed = None

    def applied(self, documents: Documents) -> None:
        self.acknowledged.append(documents)

    def refused(self, problems: Sequence[str], *, is_to_retry: bool = False) -> None:
        self.problems += problems


def documents(path: Path) -> Documents:
    (path / "documents.yaml").write_text(TEXT)
    return load([path / "documents.yaml"])


class TestFiles:
    async def test_they_are_read_in_a_child(self, tmp_path: Path) -> None:
        expected = documents(tmp_path)
        source: DocumentSource = FileDocuments([str(tmp_path)])
        assert await source.load() == expected
        (tmp_path / "documents.yaml").write_text("kind: Nothing\n")
        with pytest.raises(ConfigError):
            await source.load()

    async def test_of_a_folder_the_documents_count_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A certificate that lies beside them and rotates must start no child process."""
        changes: list[str] = []
        paths = [str(tmp_path), str(tmp_path / "nowhere")]
        source = FileDocuments(paths)
        source.start(lambda: changes.append("changed"))

        def look(name: str, content: str) -> int:
            # Any entry changes the folder's own time.
            (tmp_path / name).write_text(content)
            source._watch._look()
            return len(changes)

        assert look("documents.yaml", TEXT) == 1
        before = set(files_of(paths))
        (tmp_path / "tls.crt").write_text("PEM")
        assert set(files_of(paths)) == before
        assert look("documents.yaml", TEXT + "\n") == 2
        assert look("more.yaml", "") == 3
        source.stop()

    async def test_what_is_read_anyway_is_no_change(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def load_here(paths: Any) -> Documents:
            return load(paths)

        monkeypatch.setattr(document_source, "load_in_child", load_here)
        documents(tmp_path)
        source = FileDocuments([str(tmp_path / "documents.yaml")])
        source.start(lambda: pytest.fail("it was read meanwhile"))
        (tmp_path / "documents.yaml").write_text(TEXT + "\n")
        await source.load()
        source._watch._look()
        source.stop()

    async def test_what_changed_before_it_watched_is_a_change(self, tmp_path: Path) -> None:
        """A worker has its documents from its supervisor, which read them a second ago."""
        in_use = documents(tmp_path).fingerprint
        changes: list[str] = []
        for content in (TEXT, TEXT + "\n"):
            (tmp_path / "documents.yaml").write_text(content)
            source = FileDocuments([str(tmp_path)], in_use=in_use)
            source.start(lambda: changes.append("changed"))
            source.stop()
        assert changes == ["changed"]

    async def test_a_mixture_of_two_times_is_read_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A volume that changes between the first file and the last."""
        texts = [TEXT + "\n"]

        async def load_here(paths: Any) -> Documents:
            found = load(paths)
            if texts:
                (tmp_path / "documents.yaml").write_text(texts.pop(0))
            return found

        monkeypatch.setattr(document_source, "load_in_child", load_here)
        documents(tmp_path)
        source = FileDocuments([str(tmp_path)])
        found = await source.load()
        assert found.fingerprint == load([tmp_path]).fingerprint
        texts += [TEXT, TEXT + "\n", TEXT + "\n\n", TEXT]
        await source.load()
        assert len(texts) == 1  # not for ever
        changes: list[str] = []
        source.start(lambda: changes.append("changed"))
        source._watch._look()
        source.stop()
        assert changes == ["changed"]


class TestLastGood:
    async def test_what_is_applied_is_stored_and_nothing_else(self, tmp_path: Path) -> None:
        good = documents(tmp_path)
        inner = FakeSource(good)
        source: DocumentSource = LastGoodDocuments(inner, tmp_path)
        assert await source.load() is good
        with pytest.raises(FileNotFoundError):
            read_documents(tmp_path)
        source.applied(good)
        assert inner.acknowledged == [good]
        assert read_documents(tmp_path) == good
        inner.outcome = ConfigError((Problem("a.yaml", 1, "", "", "bad", Code.INVALID_VALUE),))
        with pytest.raises(ConfigError):
            await source.load()
        assert read_documents(tmp_path) == good

    async def test_changes_are_the_sources(self, tmp_path: Path) -> None:
        inner = FakeSource(documents(tmp_path))
        source = LastGoodDocuments(inner, tmp_path)
        source.start(lambda: None)
        assert inner.changed is not None
        source.stop()
        assert inner.changed is None

    async def test_a_disk_that_is_full_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        LastGoodDocuments(FakeSource(good := documents(tmp_path)), tmp_path / "gone").applied(good)
        (record,) = caplog.records
        assert record.getMessage().startswith("configuration could not be stored; restarted workers will start")
        assert "No such file" in record.__dict__["fields"]["problem"]


class TestShared:
    async def test_what_the_supervisor_has_stored(self, tmp_path: Path) -> None:
        assert not SharedDocuments.are_in(tmp_path)
        expected = documents(tmp_path)
        write_documents(tmp_path, expected, NEWEST)
        assert SharedDocuments.are_in(tmp_path)
        source: DocumentSource = SharedDocuments(tmp_path)
        assert await source.load() == expected
        changed = asyncio.Event()
        source.start(changed.set)
        write_documents(tmp_path, expected, NEWEST)
        async with asyncio.timeout(60):
            await changed.wait()
        source.applied(expected)
        source.refused(["no"])
        source.stop()

    async def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / NEWEST).write_bytes(b"")
        with pytest.raises(ConfigError, match="what the supervisor has stored cannot be read"):
            await SharedDocuments(tmp_path).load()
