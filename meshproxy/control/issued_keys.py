"""The keys that have a certificate: none of them gets another one.

A workload makes a new key for each request; one that comes again was copied, or its owner does not rotate it. Each key
is an empty file, named after its SHA-256, whose modification time is when its certificate expires: a restart forgets
none, and several processes may share the folder. While the disk is full, this process remembers them.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

KEYS_KEPT = 100_000
"""Beyond that, those are forgotten whose certificates expire first."""
CLAIMS_A_PRUNING = 10_000
"""Between two looks at all files: as many may be there beyond `KEYS_KEPT`."""


class IssuedKeys:
    """The keys of certificates that have not expired, in a folder, which is made if it does not exist.

    Attributes:
        failures: keys that could not be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._claims = 0
        self._unwritten: dict[str, float] = {}
        """When the certificates of those keys expire; oldest first."""
        self._problem = ""
        self._lock = threading.Lock()
        """Held by one claim at a time: they come from several threads."""
        self.failures = 0

    def claim(self, digest: str, expires: float, now: float) -> bool:
        """Whether a key may get a certificate; then it cannot get another one until `expires`.

        Args:
            digest: SHA-256 of the public key, hexadecimal.
            expires: when the certificate will, seconds since the epoch.
            now: seconds since the epoch.
        """
        with self._lock:
            return self._claim(digest, expires, now)

    def _claim(self, digest: str, expires: float, now: float) -> bool:
        if self._unwritten.get(digest, 0.0) > now:
            return False
        try:
            is_new = self._write(digest, expires, now)
        except OSError as error:
            self._remember(digest, expires, now)
            if str(error.strerror) != self._problem:
                logger.error(
                    "keys that get certificates cannot be written down; a restart would forget those",
                    extra={"fields": {"folder": str(self._folder), "problem": error.strerror}},
                )
            self._problem = str(error.strerror)
            return True
        self._problem = ""
        return is_new

    def _remember(self, digest: str, expires: float, now: float) -> None:
        self.failures += 1
        while self._unwritten and (len(self._unwritten) >= KEYS_KEPT or next(iter(self._unwritten.values())) <= now):
            del self._unwritten[next(iter(self._unwritten))]
        self._unwritten[digest] = expires

    def _write(self, digest: str, expires: float, now: float) -> bool:
        """Raises OSError."""
        if self._claims % CLAIMS_A_PRUNING == 0:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._prune(now)
        self._claims += 1
        path = self._folder / digest
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        except FileExistsError:
            if path.stat().st_mtime > now:
                return False
        os.utime(path, (now, expires))
        return True

    def _prune(self, now: float) -> None:
        """Forget the keys whose certificates have expired, and the oldest of too many."""
        kept = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):  # another process has forgotten it meanwhile
                kept.append((path.stat().st_mtime, path))
        kept.sort()
        for index, (expires, path) in enumerate(kept):
            if expires > now and len(kept) - index <= KEYS_KEPT:
                break
            path.unlink(missing_ok=True)
