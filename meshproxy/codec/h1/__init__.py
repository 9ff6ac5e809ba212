"""HTTP/1.1 (RFC 9110, RFC 9112): `head` reads heads, `body` reads bodies, `write` writes both, `connection` knows whose
turn it is. Pure: bytes and commands in, events and bytes out."""
