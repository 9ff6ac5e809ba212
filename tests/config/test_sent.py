"""Documents as they are sent."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from meshproxy.config.load import load
from meshproxy.config.sent import SentKind, Total, decode, digest, encode, key_of
from meshproxy.control_api import SentDocument

EXAMPLES = sorted(Path("deploy/examples").glob("*.yaml"))


def examples() -> list[SentKind]:
    found: list[SentKind] = []
    for path in EXAMPLES:
        mesh = load([path])
        found += [mesh.mesh, *mesh.roles, *mesh.bindings, *mesh.servers, *mesh.routes, *mesh.rollouts]
    return found


def test_they_are_read_as_they_were_written() -> None:
    found = examples()
    assert len(found) > 10
    for document in found:
        sent = encode(document, "0")
        assert decode(sent.document).spec == document.spec
        assert key_of(decode(sent.document)) == key_of(document)


def test_defaults_are_the_readers_and_what_is_for_people_stays_behind() -> None:
    document = examples()[0]
    metadata = msgspec.structs.replace(document.metadata, labels={"a": "b"}, namespace="n")
    sent = encode(msgspec.structs.replace(document, metadata=metadata), "0")
    assert bytes(sent.document).startswith(b'{"kind":"MeshConfig","metadata":{"name":"')
    assert sent.document == encode(document, "0").document
    assert b"limits" not in bytes(sent.document)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"kind":"Sidecar","metadata":{"name":"x"},"spec":{}}',
        b'{"kind":"ModelRole","metadata":{"name":"x"},"spec":{"rules":[]}}',
        b'{"kind":"ModelRole","metadata":{"name":"x"},"spec":{"rules":[{"models":["*"],"verbs":["fly"]}]}}',
        b'{"kind":"ModelRole","metadata":{"name":"x"},"spec":{"rules":[{"models":["*"],"verbs":["predict"]}],"more":1}}',
    ],
)
def test_what_is_no_document(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(msgspec.Raw(text))


def test_a_version_is_that_of_the_documents_however_it_came_about() -> None:
    one, two, three = (digest(SentDocument("0", msgspec.Raw(text))) for text in (b"1", b"2", b"3"))
    assert len({one, two, three, digest(SentDocument("1", msgspec.Raw(b"1")))}) == 4
    assert len(Total().version) == 64
    direct = Total().changed(one).changed(two)
    assert direct.version == Total().changed(three).changed(two).changed(one, three).version
    assert direct.version != Total().changed(one).version
    assert direct.changed(0, one).changed(0, two).version == Total().version
