"""What a model, a version label or a signature may be called, on every wire surface.

TensorFlow Serving itself takes any text. We take less: a name appears in rules, logs, metrics and error messages, and
must read the same in all of them.
"""

from __future__ import annotations

import re

NAME_BYTES = 256
"""Longest name, in UTF-8. TensorFlow Serving sets no limit; file systems, where models live, stop at 255."""

# Controls, line separators, and the marks that turn the direction of text: an audit line must show what was asked for.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class BadName(ValueError):
    """A name that we refuse; the text says why, without the name."""


def read_name(raw: bytes) -> str:
    """The text of a name as it came over the wire; may be empty.

    Raises:
        BadName: it is longer than `NAME_BYTES`, no UTF-8, or holds what cannot be seen.
    """
    if len(raw) > NAME_BYTES:
        raise BadName(f"is longer than {NAME_BYTES} bytes")
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise BadName("is not UTF-8") from None
    if not name.isprintable() and _UNSEEN.search(name):
        raise BadName("contains a control character")
    return name
