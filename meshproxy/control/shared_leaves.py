"""The certificates that are out, where several control planes have no folder in common: in ConfigMaps of the cluster.

There are sixteen, by the first digit of the certificate's digest, with an entry for each certificate: a write sends
what has changed, and the API server stores a sixteenth of all. One entry takes about 350 bytes, so that 40,000 valid
certificates find a place, which are those of 25,000 sidecars; beyond that, control planes say so, no step is safe, and
a day later nothing is issued.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import noted
from meshproxy.control.shared_objects import MOST_BYTES, Full
from meshproxy.control.store import StoreError, until_unchanged
from meshproxy.installation.rights import DIGITS, certificates_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshproxy.control.leaves import Sighting
    from meshproxy.control.shared_objects import SharedObjects, Version

SHORTER = (
    "Restart the control planes with a shorter --lifetime: certificates of workloads that are gone take a place until"
    " they expire"
)


class SharedLeaves:
    """`leaves.Leaves` in a cluster. Every call blocks."""

    def __init__(self, objects: SharedObjects, secret: str) -> None:
        """Nothing is read yet.

        Args:
            objects: of the cluster.
            secret: the name of the Secret with the authority.
        """
        self._objects = objects
        self._secret = secret
        self._sizes = dict.fromkeys(DIGITS, 0)
        """Of the entries, in bytes, as they were read last."""

    @property
    def used(self) -> float:
        """How full the fullest ConfigMap is: 1 is full. Known since the last `prune`."""
        return max(self._sizes.values()) / MOST_BYTES

    def write(self, leaves: Iterable[Leaf]) -> None:
        """Keep certificates that are new. Raises StoreError."""
        self._write(leaves)

    def note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Of a late one another control plane may know more by now. Raises StoreError."""
        late, sightings = list(late), list(sightings)
        until_unchanged(lambda: self._note(late, sightings))

    def _note(self, late: Iterable[Leaf], sightings: Iterable[Sighting]) -> None:
        """Raises Changed, and StoreError."""
        shards: dict[str, tuple[dict[str, Leaf], Version]] = {}
        changes: dict[str, Leaf] = {}

        def read(name: str) -> Leaf | None:
            if name in changes:
                return changes[name]
            digit = _digit(name)
            if digit not in shards:
                shards[digit] = self._read(digit)
            return shards[digit][0].get(name)

        for leaf in noted(late, sightings, read):
            changes[leaf.name] = leaf
        self._write(changes.values(), {digit: version for digit, (_, version) in shards.items()})

    def valid(self, now: float) -> list[Leaf]:
        """Those that have not expired. Raises StoreError."""
        found = [leaf for digit in DIGITS for leaf in self._read(digit)[0].values() if leaf.is_valid(now)]
        return sorted(found, key=lambda leaf: leaf.name)

    def prune(self, now: float) -> None:
        """Remove those that have expired. Raises StoreError."""
        for digit in DIGITS:
            over = [leaf.name for leaf in self._read(digit)[0].values() if not leaf.is_valid(now)]
            if over:
                self._objects.write_structs(self._name(digit), dict.fromkeys(over))

    def _read(self, digit: str) -> tuple[dict[str, Leaf], Version]:
        """Raises StoreError."""
        found = self._objects.read_structs(self._name(digit), Leaf, "the record of a certificate: remove it")
        self._sizes[digit] = found[1].size
        return found

    def _write(self, leaves: Iterable[Leaf], versions: dict[str, Version] | None = None) -> None:
        """Those of one ConfigMap at a time: one that is full keeps nobody's out but its own. Raises Changed, and
        StoreError."""
        full: Full | None = None
        for digit, changes in _by_digit(leaves).items():
            version = versions[digit] if versions is not None else None
            try:
                self._objects.write_structs(self._name(digit), changes, version)
            except Full as error:
                full = error
        if full is not None:
            raise StoreError(f"{full}. {SHORTER}; unless there is room within a day, nothing is issued")

    def _name(self, digit: str) -> str:
        return certificates_name(self._secret, digit)


def _digit(name: str) -> str:
    return name.partition("-")[2][0]


def _by_digit(leaves: Iterable[Leaf]) -> dict[str, dict[str, Leaf]]:
    found: dict[str, dict[str, Leaf]] = defaultdict(dict)
    for leaf in leaves:
        found[_digit(leaf.name)][leaf.name] = leaf
    return found
