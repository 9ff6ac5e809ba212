"""Documents to translate: nothing of them gets lost silently."""

from __future__ import annotations

import pytest

from meshproxy.config.problems import ConfigError
from meshproxy.migration.source import Kind, Source, Translation, read_sources, without_nothing

TEXT = b"""apiVersion: a/v1
kind: K
metadata: {name: web, namespace: shop}
spec:
  read: 1
  unread: 2
  part: {inner: 3}
  parts:
  - {one: 1, two: 2}
"""


def sources(text: bytes, translation: Translation) -> list[tuple[str, str, Source]]:
    return list(read_sources("f.yaml", text, translation))


def test_what_was_not_read_is_a_note_with_its_line() -> None:
    translation = Translation()
    ((version, kind, source),) = sources(TEXT, translation)
    assert (version, kind, source.name, source.namespace) == ("a/v1", "K", "web", "shop")
    spec = source.part("spec")
    assert spec is not None
    assert spec.value("read") == 1
    (item,) = spec.parts("parts")
    assert item.value("one") == 1
    source.finish({"unread": "why"})
    assert [(note.line, note.field, note.kind, note.why) for note in translation.notes] == [
        (6, "spec.unread", Kind.LEFT_OUT, "why"),
        (7, "spec.part", Kind.LEFT_OUT, ""),
        (9, "spec.parts[0].two", Kind.LEFT_OUT, ""),
    ]
    assert str(translation.notes[0]) == "f.yaml:6: K/web: spec.unread: has no counterpart: why"


def test_what_is_dealt_with_as_a_whole() -> None:
    translation = Translation()
    ((_, _, source),) = sources(TEXT, translation)
    spec = source.part("spec")
    assert spec is not None
    spec.read_all()
    source.finish({})
    assert translation.notes == []


def test_lists_and_values() -> None:
    text = b"apiVersion: v1\nkind: List\nitems: [{kind: A, spec: [1, {a: null}]}, {kind: B}]\n"
    (a, b) = sources(text, Translation())
    assert (a[1], b[1]) == ("A", "B")
    assert a[2].value("spec") == [1, {"a": None}]
    assert a[2].part("spec") is None
    assert (b[2].parts("no"), b[2].texts("no"), b[2].value("no")) == ([], [], None)


@pytest.mark.parametrize("text", [b"\xff", b"a: [", b"a: 1\na: 2\n"])
def test_files_that_cannot_be_read(text: bytes) -> None:
    with pytest.raises(ConfigError):
        sources(text, Translation())


def test_ports_as_keys() -> None:
    """As Istio's reference writes them without quotes, and kubectl takes them."""
    text = b"kind: PeerAuthentication\nspec: {portLevelMtls: {8080: {mode: DISABLE}}}\n"
    ((_, _, source),) = sources(text, Translation())
    assert source.value("spec") == {"portLevelMtls": {"8080": {"mode": "DISABLE"}}}


def test_equal_documents_are_written_once() -> None:
    translation = Translation()
    for _ in range(2):
        translation.add("ModelServer", "a", {"dns": {"name": "x", "rest": None}, "hosts": []})
    assert [each["spec"] for each in translation.documents] == [{"dns": {"name": "x"}}]
    assert without_nothing({"a": 0, "b": False, "c": {"d": None}}) == {"a": 0, "b": False}
