"""The Helm chart's template of the installation, made from the objects: `python -m meshproxy.installation.chart`.

The objects are printed with a placeholder for each value, once for every way in which sidecars get into pods, with a
login to the page and without. The texts are merged line by line: what only some of them have is between `if` and `end`.
So each of them is rendered as it was.
"""

from __future__ import annotations

import difflib
import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.injection.settings import UNITS, amount
from meshproxy.injection.yaml_edit import as_block
from meshproxy.installation.choices import MEMORY_REQUEST, CertManager, Choices, Injection
from meshproxy.installation.parts import Part, installation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEADER = f"""\
{{{{- /* Made by `python -m meshproxy.installation.chart`; a test keeps it up to date. */}}}}
{{{{- $webhook := eq .Values.injector "webhook" }}}}
{{{{- $certManager := .Values.certManager.name }}}}
{{{{- $login := .Values.loginSecret }}}}
{{{{- $units := dict {" ".join(f'"{unit}" {factor:.0f}' for unit, factor in UNITS.items() if factor >= 1)} }}}}
{{{{- $unit := regexFind "[A-Za-z]*$" .Values.memoryLimit }}}}
{{{{- if lt (mulf (trimSuffix $unit .Values.memoryLimit) (get $units $unit)) {amount(MEMORY_REQUEST):.1f} }}}}
{{{{- fail (print "memoryLimit: " .Values.memoryLimit " is below what is requested, {MEMORY_REQUEST}") }}}}
{{{{- end }}}}
"""
_VALUES = {
    "image-placeholder": ".Values.image",
    "trust-domain-placeholder": ".Values.trustDomain",
    "namespace-placeholder": ".Release.Namespace",
    "account-placeholder": ".Values.serviceAccount",
    "server-placeholder": ".Values.server",
    "kind-placeholder": ".Values.certManager.kind",
    "issuer-placeholder": ".Values.certManager.name",
    "listen-placeholder": ".Values.listen",
    "login-placeholder": ".Values.loginSecret",
    "987654Mi": ".Values.memoryLimit",
    "987.654": ".Values.kubernetes",
}
"""What stands for each value."""


@dataclass(frozen=True, slots=True)
class _Either:
    """Lines of which a condition decides."""

    condition: str
    then: tuple[_Item, ...]
    otherwise: tuple[_Item, ...]


_Item = str | _Either


def template() -> str:
    """The template: all but the kinds, the Namespace, which is Helm's, and the documents."""
    own, certified, none = (
        _merged("$login", _lines(injection, issuer, "login-placeholder"), _lines(injection, issuer, None))
        for injection, issuer in (
            (Injection.WEBHOOK, None),
            (Injection.WEBHOOK, CertManager("kind-placeholder", "issuer-placeholder")),
            (Injection.NONE, None),
        )
    )
    webhook = _merged("$certManager", certified, own)
    text = "\n".join(_written(_merged("$webhook", webhook, none)))
    return HEADER + text + "\n"


def _lines(injection: Injection, issuer: CertManager | None, login: str | None) -> list[str]:
    choices = Choices(
        image="image-placeholder",
        trust_domain="trust-domain-placeholder",
        namespace="namespace-placeholder",
        service_account="account-placeholder",
        server="server-placeholder",
        listen="listen-placeholder",
        kubernetes=(987, 654),
        injection=injection,
        cert_manager=issuer,
        login_secret=login,
        memory_limit="987654Mi",
    )
    objects = installation(choices, [Part.CONTROL_PLANE, Part.INJECTOR])
    text = "".join(f"---\n{as_block(each)}\n" for each in objects if each["kind"] != "Namespace")
    assert "{{" not in text
    return [_with_values(line) for line in text.splitlines()]


def _with_values(line: str) -> str:
    for placeholder, value in _VALUES.items():
        line = re.sub(rf"(?<=[:-] ){re.escape(placeholder)}$", f"{{{{ {value} | quote }}}}", line)
        line = line.replace(placeholder, f"{{{{ {value} }}}}")
    return line


def _merged(condition: str, then: Sequence[_Item], otherwise: Sequence[_Item]) -> list[_Item]:
    found: list[_Item] = []
    for what, i, j, k, m in difflib.SequenceMatcher(None, then, otherwise, autojunk=False).get_opcodes():
        found += then[i:j] if what == "equal" else [_Either(condition, tuple(then[i:j]), tuple(otherwise[k:m]))]
    return found


def _written(items: Iterable[_Item]) -> Iterable[str]:
    for item in items:
        if isinstance(item, str):
            yield item
            continue
        yield f"{{{{- if {item.condition if item.then else f'not {item.condition}'} }}}}"
        yield from _written(item.then or item.otherwise)
        if item.then and item.otherwise:
            yield "{{- else }}"
            yield from _written(item.otherwise)
        yield "{{- end }}"


if __name__ == "__main__":
    sys.stdout.write(template())
