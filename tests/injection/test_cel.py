from __future__ import annotations

from meshproxy.injection.cel import literal, operation, text


def test_literals() -> None:
    assert literal({"a": [1, True, None], "b": {}}) == '{"a": dyn([dyn(1), dyn(true), dyn(null)]), "b": dyn({})}'
    assert text('a"\n') == '"a\\"\\n"'


def test_operations() -> None:
    assert operation("add", text("/a"), literal(1)) == 'JSONPatch{op: "add", path: "/a", value: 1}'
