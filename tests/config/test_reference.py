"""The reference: complete, and what the page in docs says."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshproxy.config import reference, schema


def test_the_page_is_up_to_date() -> None:
    """Make it again with `meshproxy config explain -o markdown > docs/configuration.md`."""
    assert Path("docs/configuration.md").read_text() == reference.page()


def test_every_field_says_what_it_means() -> None:
    seen = [
        field for kind in schema.KINDS for _, struct in reference._below(kind, "") for field in reference.fields(struct)
    ]
    assert [field.name for field in seen if not field.text] == []
    assert len(seen) > 70


def test_every_struct_has_a_description() -> None:
    for kind in schema.KINDS:
        assert reference.description(kind)
        for path, struct in reference._below(kind, ""):
            assert reference.description(struct), path


@pytest.mark.parametrize(
    ("path", "full", "words", "default"),
    [
        ("ModelServer.spec.connectTimeout", "ModelServer.spec.connectTimeout", "duration", "1s"),
        (
            "MeshConfig.spec.limits.scanBufferBytes",
            "MeshConfig.spec.limits.scanBufferBytes",
            "size, at least 1,024",
            "4MiB",
        ),
        ("MeshConfig.spec.tls.minVersion", "MeshConfig.spec.tls.minVersion", '"1.3" or "1.2"', '"1.3"'),
        ("ModelRole.spec.rules.models", "ModelRole.spec.rules[].models", "list of model name or glob", "required"),
        ("ModelRole.spec.rules[].versions", "ModelRole.spec.rules[].versions", "list of whole number or text", ""),
        ("MeshConfig.spec.issuers.algorithms", "MeshConfig.spec.issuers[].algorithms", None, "[RS256, ES256]"),
        ("Sidecar.spec.inbound.listen", "Sidecar.spec.inbound.listen", "IP:PORT", "0.0.0.0:18500"),
        ("Sidecar.spec.inbound.forwardToken", "Sidecar.spec.inbound.forwardToken", "true or false", "false"),
        ("ModelServer.spec.breaker.openFor", "ModelServer.spec.breaker.openFor", "duration", "500ms"),
        ("ModelServer.spec.ejection.deviations", "ModelServer.spec.ejection.deviations", "number, 0.1 to 10", "1.9"),
        ("ModelRoute.spec.retries.attempts", "ModelRoute.spec.retries.attempts", "whole number, at most 10", "3"),
        ("ModelRoute.spec.retries.budgetRatio", "ModelRoute.spec.retries.budgetRatio", "number from 0 to 1", "0.2"),
        # Not 1e-06, which a document must not hold.
        (
            "ModelRoute.spec.mirror.compare.absolute",
            "ModelRoute.spec.mirror.compare.absolute",
            "number, at least 0",
            "0.000001",
        ),
        ("ModelRoute.spec.split.weight", "ModelRoute.spec.split[].weight", "whole number", "1"),
        ("MeshConfig.spec.limits.resetsRate", "MeshConfig.spec.limits.resetsRate", "number per second", "100"),
    ],
)
def test_fields_are_found(path: str, full: str, words: str | None, default: str) -> None:
    found, field, _ = reference.find(path)
    assert field is not None
    assert found == full
    assert words in (None, field.words)
    assert field.default == default
    assert field.text


def test_a_kind_is_found_with_what_is_below() -> None:
    assert reference.find("Sidecar") == ("Sidecar", None, schema.Sidecar)


@pytest.mark.parametrize("path", ["Sidcar", "Sidecar.x", "Sidecar.spec.accessLog.x", "", "Sidecar."])
def test_what_is_not_there(path: str) -> None:
    with pytest.raises(LookupError) as raised:
        reference.find(path)
    name, known = raised.value.args
    assert name not in known
