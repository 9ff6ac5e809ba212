"""What the control plane keeps, in a folder: the authority and the join tokens.

    authority.pem        the certificate of the authority, then those up to its root
    authority-key.pem    its key (mode 0600)
    roots.pem            the trusted roots; only below an authority that is not one itself
    join-tokens/         a file for each token that was not used yet, named after its SHA-256
    issued-keys/         a file for each key with a certificate (`issued_keys`)
    leaves/              a file for each certificate (`leaves`)
    authority-copy.json  the authority of a Secret (`authority_secret`), and is then all that counts

Several processes may share the folder: files appear and disappear as a whole, and a token is used by whoever removes
its file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from meshproxy.config.file_watch import state_of
from meshproxy.config.unreadable import why
from meshproxy.control.attestation import JoinToken
from meshproxy.control.authority import Authority, AuthorityError
from meshproxy.control.root_rotation import RootRotation, Step, StoredAuthority
from meshproxy.identity.private_files import replace_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CERTIFICATE, KEY, ROOTS = "authority.pem", "authority-key.pem", "roots.pem"
ROTATION = "root-rotation.json"
"""Exists while the root is rotated, and is then all that counts: each step replaces it as a whole."""
COPY = "authority-copy.json"
JOIN_TOKENS, ISSUED_KEYS, LEAVES = "join-tokens", "issued-keys", "leaves"
LOCK = ".lock"
"""Held while the authority is made or rotated; it stays, empty."""
TOKENS_KEPT = 10_000
"""Join tokens that may wait to be used."""
ATTEMPTS = 10
"""To decide anew, because somebody has written meanwhile."""

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Kept = TypeVar("Kept", bound=msgspec.Struct)


class StoreError(Exception):
    """The folder, or the cluster, cannot be used. The text says why and what to do."""


class Unreachable(StoreError):
    """The cluster does not answer now: what was to be written may have been, or not. It may answer later."""


class Changed(StoreError):
    """Somebody else has written meanwhile: nothing was done. Read again, and decide again (`until_unchanged`)."""


def until_unchanged(decide: Callable[[], Result]) -> Result:
    """Read, decide and write, as often as somebody else is quicker. Raises Changed after `ATTEMPTS`, and whatever else
    `decide` does."""
    for _ in range(ATTEMPTS):
        try:
            return decide()
        except Changed as changed:
            last = changed
    raise last


def read_record(
    path: Path, kind: type[Kept], what: str, read: Callable[[Path], bytes] = Path.read_bytes
) -> Kept | None:
    """A file with a struct as JSON; None if there is none.

    Args:
        path: of the file.
        kind: of the struct.
        what: the file should be, and what to do with one that is not.
        read: gives what is in it. Raises OSError, and StoreError.

    Raises:
        StoreError: it cannot be read, or is something else.
    """
    try:
        return msgspec.json.decode(read(path), type=kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is not {what} ({error})") from None


class AuthorityCopy(msgspec.Struct, frozen=True):
    """The authority that is kept elsewhere."""

    secret: str
    """`NAMESPACE/NAME`."""
    stored: StoredAuthority
    step: Step | None = None
    """How far the rotation of the root is; None if none is under way."""
    since: float = 0.0
    """When that step was taken, seconds since the epoch."""

    def authority(self) -> Authority:
        """Raises AuthorityError."""
        return self.stored.load()


def say_new_root(where: str, authority: Authority) -> None:
    """Nothing in an empty place tells a first start from one after a loss: whoever reads it has to."""
    logger.warning(
        "made a new root, as there was none; unless this is the first start of the mesh, stop, and put the old one"
        " back: no sidecar trusts this one",
        extra={"fields": {"where": where, "trust_domain": authority.trust_domain, "signs": authority.id}},
    )


class FolderStore:
    """Everything that is kept, in one folder of this host or a volume."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokens = folder / JOIN_TOKENS

    def authority(self, trust_domain: str, now: float) -> Authority:
        """The authority in the folder, which is created if it does not exist; a new root if there is none, and never
        was one.

        Raises:
            StoreError: it is incomplete, lost, unreadable, not this trust domain's, or cannot be written.
        """
        self._make(self.folder, self._tokens)
        # The certificate is written last: without it, another process may be making the authority, under the lock.
        is_whole = any((self.folder / name).exists() for name in (COPY, CERTIFICATE))
        found = self.find_authority() if is_whole else None
        authority = found or self._create_authority(trust_domain, now)
        if authority.trust_domain != trust_domain:
            raise StoreError(
                f"{self.folder / CERTIFICATE} is the authority of trust domain {authority.trust_domain}, not of "
                f"{trust_domain}: use another folder"
            )
        return authority

    def find_authority(self) -> Authority | None:
        """The authority in the folder, as a rotation has it now; None if there is none. Raises StoreError, as
        `authority`."""
        for name, kept in ((COPY, self.copy()), (ROTATION, self.rotation())):
            if kept is not None:
                try:
                    return kept.authority()
                except AuthorityError as error:
                    raise StoreError(f"{self.folder / name} cannot be used: {error}") from error
        certificate, key, roots = (self.folder / name for name in (CERTIFICATE, KEY, ROOTS))
        if not certificate.exists() and not key.exists():
            return None
        try:
            content = _read_private(key)
            bundle = roots.read_bytes() if roots.exists() else None
            return Authority.load(certificate.read_bytes(), content, bundle)
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}") from error
        except AuthorityError as error:
            raise StoreError(f"the authority in {self.folder} cannot be used: {error}") from error

    def copy(self) -> AuthorityCopy | None:
        """The authority that is kept in a Secret; None if the folder is its place. Raises StoreError."""
        return self._read_json(COPY, AuthorityCopy)

    @property
    def has_copy(self) -> bool:
        """There is one, whatever is in it."""
        return (self.folder / COPY).exists()

    def save_copy(self, copy: AuthorityCopy) -> None:
        """From now on this is the authority. Raises StoreError."""
        self._make(self.folder)
        self._write((COPY, msgspec.json.encode(copy), 0o600))

    def _check_place(self, what: str) -> None:
        """Raises StoreError if the authority is a copy."""
        if (copy := self.copy()) is not None:
            raise StoreError(
                f"{what}: {self.folder} belongs to one of the control planes that share"
                f" {copy.secret} (use --authority-secret)"
            )

    def stamp(self) -> tuple[object, ...]:
        """Differs when the authority may be another."""
        return tuple(_stamp(self.folder / name) for name in (COPY, ROTATION, CERTIFICATE, KEY, ROOTS))

    def _create_authority(self, trust_domain: str, now: float) -> Authority:
        """Two processes that start at once agree: the second one waits, and finds the authority of the first."""
        authority = Authority.create(trust_domain, now)
        with self.lock():
            if (existing := self.find_authority()) is not None:
                return existing
            self._check_unused()
            self._write((KEY, authority.key_pem, 0o600), (CERTIFICATE, authority.certificate_pem, 0o644))
        say_new_root(str(self.folder), authority)
        return authority

    def _check_unused(self) -> None:
        """Raises StoreError if an authority belongs to what is here."""
        for name in (ROOTS, ISSUED_KEYS, LEAVES):
            if (self.folder / name).exists():
                raise StoreError(
                    f"{self.folder} has {name}, but no longer the authority that it belongs to: put {CERTIFICATE} and"
                    f" {KEY} back; or use an empty folder, with a new root that no sidecar trusts yet"
                )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from making or rotating the authority meanwhile. Raises StoreError."""
        try:
            descriptor = os.open(self.folder / LOCK, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StoreError(f"the folder {self.folder} cannot be locked: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            yield

    def _make(self, *folders: Path) -> None:
        """Raises StoreError."""
        try:
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"folder {folder} cannot be created: {why(folder, error)}") from error

    def _write(self, *files: tuple[str, bytes, int]) -> None:
        """Raises StoreError."""
        try:
            for name, content, mode in files:
                replace_file(self.folder / name, content, mode)
        except OSError as error:
            problem = why(self.folder, error)
            raise StoreError(f"the authority cannot be stored in {self.folder}: {problem}") from error

    def _read_json(self, name: str, kind: type[Kept]) -> Kept | None:
        """A file with keys; None if there is none. Raises StoreError."""
        return read_record(self.folder / name, kind, f"a {kind.__name__}", _read_private)

    # The rotation of the root

    def rotation(self) -> RootRotation | None:
        """The rotation that is not over; None if there is none. Raises StoreError."""
        return self._read_json(ROTATION, RootRotation)

    def progress(self) -> tuple[Step, float] | None:
        """The step of the rotation that is under way, here or where the authority is copied from, and when it was
        taken. Raises StoreError."""
        if (copy := self.copy()) is not None:
            return (copy.step, copy.since) if copy.step is not None else None
        rotation = self.rotation()
        return (rotation.step, rotation.since) if rotation is not None else None

    @property
    def where(self) -> str:
        """For people (`rotator.Place`)."""
        return str(self.folder)

    def planes(self) -> None:
        """All control planes of a folder look at it before each certificate (`rotator.Place`)."""

    def save_rotation(self, rotation: RootRotation) -> None:
        """Take a step: from now on this is what all control planes of the folder do. Raises StoreError."""
        self._check_place("the root cannot be rotated here")
        self._write((ROTATION, msgspec.json.encode(rotation), 0o600))

    def end_rotation(self, authority: StoredAuthority) -> None:
        """Go on with one of the two authorities alone. Interrupted, the rotation is still where it was. Raises
        StoreError."""
        self._write(
            (KEY, authority.key.encode(), 0o600),
            (CERTIFICATE, authority.certificate.encode(), 0o644),
            (ROOTS, authority.roots.encode(), 0o644),
        )
        try:
            if authority.roots == authority.certificate:
                (self.folder / ROOTS).unlink()
            (self.folder / ROTATION).unlink()
        except OSError as error:
            raise StoreError(f"the rotation in {self.folder} cannot be ended: {error.strerror}") from error

    # Join tokens (`attestation.TokenStore`; `shared_tokens` has them in a cluster)

    def add_token(self, digest: str, token: JoinToken, now: float) -> None:
        """Keep a token until it is used, or expires. Raises StoreError."""
        self._check_place("a join token would work with one control plane only")
        waiting = sum(1 for _ in self._prune_tokens(now))
        if waiting >= TOKENS_KEPT:
            raise StoreError(f"{waiting} join tokens wait to be used already: wait until some expire")
        try:
            replace_file(self._tokens / digest, msgspec.json.encode(token), 0o600)
        except OSError as error:
            raise StoreError(f"the join token cannot be stored in {self._tokens}: {error.strerror}") from error

    def take_token(self, digest: str) -> JoinToken | None:
        """The token, which nobody can take again. None: there is none. Raises StoreError."""
        path = self._tokens / digest
        try:
            content = path.read_bytes()
            path.unlink()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"the join token cannot be taken from {self._tokens}: {error.strerror}") from error
        return msgspec.json.decode(content, type=JoinToken)

    def waiting_tokens(self, now: float) -> list[JoinToken]:
        """The tokens that can still be used, the first to expire first. Raises StoreError."""
        try:
            return sorted(self._prune_tokens(now), key=lambda token: token.expires)
        except OSError as error:
            raise StoreError(f"the join tokens in {self._tokens} cannot be read: {error.strerror}") from error

    def _prune_tokens(self, now: float) -> Iterator[JoinToken]:
        """The tokens that are still valid; the files of others are removed."""
        for path in self._tokens.iterdir():
            if path.name.startswith("."):
                continue  # it is being written
            try:
                token = msgspec.json.decode(path.read_bytes(), type=JoinToken)
            except FileNotFoundError:
                continue
            except msgspec.DecodeError:
                token = JoinToken("", 0.0)
            if token.expires <= now:
                path.unlink(missing_ok=True)
            else:
                yield token


def _read_private(path: Path) -> bytes:
    """A file with a key. Raises OSError, and StoreError if others may read it."""
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        raise StoreError(f"{path} is accessible to other users (mode {mode:04o}): set mode 0600")
    return path.read_bytes()


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        return state_of(path)
    except OSError:
        return ()
