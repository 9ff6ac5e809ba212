"""The files of a volume: what is needed for them, which they are, and how they are replaced."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from meshproxy.devtools.node.fields import field_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_DATA = "..data"
"""The link that a kubelet replaces when files change, so that they change at once."""


class Needed(NamedTuple):
    """Something that the API server has to be asked for.

    Attributes:
        kind: `configMap`, `secret` or `token`.
        name: of the object, or the audience of the token.
        seconds: how long the token is to last.
    """

    kind: str
    name: str
    seconds: int = 0


def needed_for(volume: Mapping[str, Any]) -> set[Needed]:
    """What a volume is made of."""
    return {need for need, _ in _sources(volume) if need is not None}


def files(
    volume: Mapping[str, Any], pod: Mapping[str, Any], found: Mapping[Needed, Mapping[str, bytes]]
) -> dict[str, bytes]:
    """The files of a volume by their paths in it.

    Args:
        found: the contents of what is needed, by key. A token has the key `token`.

    Raises:
        ValueError: something is not there that is named.
    """
    made: dict[str, bytes] = {}
    for need, source in _sources(volume):
        if need is None:
            for item in source.get("items") or ():
                made[item["path"]] = field_of(pod, item["fieldRef"]["fieldPath"]).encode()
        elif need.kind == "token":
            made[source["path"]] = found[need]["token"]
        else:
            data = found[need]
            items = source.get("items") or [{"key": key, "path": key} for key in data]
            if absent := [item["key"] for item in items if item["key"] not in data]:
                raise ValueError(f"the {need.kind} {need.name} has no {', '.join(absent)}")
            made |= {item["path"]: data[item["key"]] for item in items}
    return made


def _sources(volume: Mapping[str, Any]) -> Iterator[tuple[Needed | None, Mapping[str, Any]]]:
    """Each source of a volume, with what it takes; None: the pod itself."""
    for source in (volume.get("projected") or {"sources": [volume]})["sources"]:
        if (token := source.get("serviceAccountToken")) is not None:
            yield Needed("token", token.get("audience", ""), token.get("expirationSeconds", 3600)), token
        if (config := source.get("configMap")) is not None:
            yield Needed("configMap", config["name"]), config
        if (secret := source.get("secret")) is not None:
            yield Needed("secret", secret.get("secretName") or secret["name"]), secret
        if (own := source.get("downwardAPI")) is not None:
            yield None, own


def contents(shown: Mapping[str, Any]) -> dict[str, bytes]:
    """What a ConfigMap or Secret holds, as the API server shows it."""
    if shown["kind"] == "Secret":
        return {key: base64.b64decode(value) for key, value in (shown.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (shown.get("binaryData") or {}).items()}
    return {**binary, **{key: value.encode() for key, value in (shown.get("data") or {}).items()}}


def write(folder: Path, made: Mapping[str, bytes]) -> bool:
    """Replace the files in the folder of a volume at once. Returns whether any is different."""
    link = folder / _DATA
    before = link.resolve() if link.is_symlink() else None
    if before is not None and _read(before) == dict(made):
        return False
    new = Path(tempfile.mkdtemp(prefix="..", dir=folder))
    new.chmod(0o755)
    for path, content in made.items():
        file = new / path
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o644)
    fresh = folder / "..new"
    fresh.symlink_to(new.name)
    os.replace(fresh, link)  # noqa: PTH105
    _link(folder, {Path(path).parts[0] for path in made})
    if before is not None:
        shutil.rmtree(before)
    return True


def _read(folder: Path) -> dict[str, bytes]:
    return {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}


def _link(folder: Path, names: Iterable[str]) -> None:
    wanted = set(names)
    for name in wanted:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path(_DATA, name))
    for each in folder.iterdir():
        if not each.name.startswith("..") and each.name not in wanted:
            each.unlink()
