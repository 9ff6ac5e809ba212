"""The certificates that are out, where several control planes have no folder in common: in ConfigMaps of the cluster.

There are sixteen, by the first digit of the certificate's digest, with an entry for each certificate: a write sends
what has changed, and the API server stores a sixteenth of all. One entry takes about 350 bytes, so that 40,000 valid
certificates find a place, which are those of 25,000 sidecars; beyond that, control planes say so and no step is safe.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec

from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import merged
from meshproxy.control.store import StoreError, until_unchanged
from meshproxy.installation.rights import DIGITS, certificates_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshproxy.control.leaves import Sighting
    from meshproxy.control.shared_objects import SharedObjects, Version


class SharedLeaves:
    """`leaves.Leaves` in a cluster. Every call blocks.

    Args:
        objects: of the cluster.
        secret: the name of the Secret with the authority.
    """

    def __init__(self, objects: SharedObjects, secret: str) -> None:
        self._objects = objects
        self._secret = secret

    def write(self, leaves: Iterable[Leaf]) -> None:
        """Keep certificates that are new. Raises StoreError."""
        for digit, changes in _by_digit({leaf.name: leaf for leaf in leaves}).items():
            self._objects.write("configmaps", certificates_name(self._secret, digit), changes)

    def note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Of a late one another control plane may know more by now. Raises StoreError."""
        late, sightings = list(late), list(sightings)
        until_unchanged(lambda: self._note(late, sightings))

    def _note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Raises Changed, and StoreError."""
        shards: dict[str, tuple[dict[str, Leaf], Version]] = {}
        changes: dict[str, Leaf | None] = {}

        def read(name: str) -> Leaf | None:
            if name not in changes:
                digit = _digit(name)
                if digit not in shards:
                    shards[digit] = self._read(digit)
                return shards[digit][0].get(name)
            return changes[name]

        for leaf in late:
            if read(leaf.name) is None:
                changes[leaf.name] = leaf
        for sighting in sightings:
            for leaf in merged(sighting, read):
                changes[leaf.name] = leaf
        for digit, texts in _by_digit(changes).items():
            read_first = shards[digit][1]
            self._objects.write("configmaps", certificates_name(self._secret, digit), texts, read_first)

    def valid(self, now: float) -> list[Leaf]:
        """Those that have not expired. Raises StoreError."""
        found = [leaf for digit in DIGITS for leaf in self._read(digit)[0].values() if leaf.is_valid(now)]
        return sorted(found, key=lambda leaf: leaf.name)

    def prune(self, now: float) -> None:
        """Remove those that have expired. Raises StoreError."""
        for digit in DIGITS:
            over = [leaf.name for leaf in self._read(digit)[0].values() if not leaf.is_valid(now)]
            if over:
                self._objects.write("configmaps", certificates_name(self._secret, digit), dict.fromkeys(over))

    def _read(self, digit: str) -> tuple[dict[str, Leaf], Version]:
        """Raises StoreError."""
        name = certificates_name(self._secret, digit)
        content, version = self._objects.read("configmaps", name)
        try:
            leaves = {key: msgspec.json.decode(text, type=Leaf) for key, text in content.items()}
        except msgspec.DecodeError as error:
            where = self._objects.where("configmaps", name)
            raise StoreError(f"an entry of {where} is not the record of a certificate: remove it ({error})") from None
        return leaves, version


def _digit(name: str) -> str:
    return name.partition("-")[2][0]


def _by_digit(changes: Mapping[str, Leaf | None]) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = defaultdict(dict)
    for name, leaf in changes.items():
        found[_digit(name)][name] = msgspec.json.encode(leaf).decode() if leaf is not None else None
    return found
