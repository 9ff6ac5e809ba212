"""A new private key and its signing request, made in a child process.

The libraries that make them (`cryptography`, 10 MB) would stay in the memory of a sidecar that needs them once a day.
Run as `python -m meshproxy.sidecar.new_key`; the output is one msgpack value, `NewKey`, on a pipe that only the parent
reads.
"""

from __future__ import annotations

import sys

import msgspec

from meshproxy.config.child_process import ChildFailed, Task, output_of

SECONDS = 30.0
TASK = Task("meshproxy.sidecar.new_key", "the process that makes a key", "making a key")


class NewKey(msgspec.Struct, frozen=True):
    """A key, and the request for its certificate."""

    key_pem: bytes
    """P-256, PKCS #8, without a password."""
    csr: bytes
    """PKCS #10 (RFC 2986), DER. It names nobody: who we are is for the authority to find out."""

    def __repr__(self) -> str:
        return "NewKey(...)"


class KeyFailure(Exception):
    """The child process failed. The text says how."""


async def new_key() -> NewKey:
    """A key that nobody else has. Raises KeyFailure."""
    try:
        return msgspec.msgpack.decode(await output_of(TASK, seconds=SECONDS), type=NewKey)
    except ChildFailed as error:
        raise KeyFailure(str(error)) from error
    except msgspec.DecodeError as error:
        raise KeyFailure(f"the output of {TASK.process} is unreadable: {error}") from error


def make_key() -> NewKey:
    """In the child."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return NewKey(pem, request.public_bytes(serialization.Encoding.DER))


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.msgpack.encode(make_key()))
