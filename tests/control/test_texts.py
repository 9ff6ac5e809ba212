"""What is wrong with a set of texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config.files import Source
from meshproxy.control import texts as module
from meshproxy.control.texts import Text, TextSet
from tests.control.test_documents import BINDING, MESH, ROLE, ROUTE, SERVER, SIDECAR


def read(name: str, content: str | bytes) -> Text:
    data = content if isinstance(content, bytes) else content.encode()
    return Text.read(Source(Path(name), data, is_named=True, root=Path()), name)


def said(texts: TextSet) -> list[str]:
    return [str(problem) for problem in texts.problems()]


def test_the_documents_of_a_text_have_places_among_all() -> None:
    text = read("a", f"{SERVER}---\n{ROUTE}")
    assert (
        [held.sent.order for held in text.held.values()]
        == list(text.places().values())
        == ["a\x00000000", "a\x00000001"]
    )


def test_a_text_with_a_problem_has_nothing_to_send() -> None:
    assert read("a", f"{SERVER}---\n{SIDECAR}").held == {}


@pytest.mark.parametrize(
    ("content", "is_open", "is_harmless"),
    [
        (ROUTE, False, True),
        (BINDING, False, True),
        (BINDING, True, False),
        (BINDING.replace("spec: {", "spec: {action: deny, "), False, False),
        (ROLE, False, False),
        ("[", False, False),
    ],
)
def test_what_may_be_left_out(content: str, is_open: bool, is_harmless: bool) -> None:
    assert read("a", content).is_harmless(is_open=is_open) == is_harmless


def test_problems_come_and_go_with_the_texts_that_have_them() -> None:
    texts = TextSet("here")
    assert said(texts) == ["here: there is no MeshConfig"]
    texts.put({"m": read("m", MESH), "r": read("r", ROUTE), "b": read("b", "kind: Nothing\n")})
    assert len(said(texts)) == 3
    assert texts.blamed() == {"r", "b"}
    texts.put({"s": read("s", SERVER), "b": None})
    assert said(texts) == []
    texts.put({"s": None})
    assert texts.blamed() == {"r"}


def test_what_may_stand_in_the_rest_of_a_text_is_not_missed() -> None:
    texts = TextSet("here")
    cut = read("c", b"\xff")
    texts.put({"r": read("r", ROUTE), "c": cut})
    assert said(texts) == ["c:1: not UTF-8"]
    texts.put({"c": None})
    assert texts.blamed() == {"r"}
    assert said(texts)[0] == "here: there is no MeshConfig"


def test_the_size_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = TextSet("here")
    texts.put({"m": read("m", MESH)})
    monkeypatch.setattr(module, "SET_BYTES", len(MESH))
    assert said(texts) == []
    texts.put({"s": read("s", SERVER)})
    assert said(texts) == ["here: larger than 0 MiB"]
    texts.put({"s": None})
    assert said(texts) == []
