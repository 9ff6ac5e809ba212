"""Heads of HTTP/1.1, split into what stays the same and the values of a few fields.

Two heads have the same shape if they are equal byte for byte but for the values of these slots, each of which has a
strict form that is valid wherever its field is. So of two heads with one shape the codec accepts both or none, and what
it reads of them differs in these values only (`plan` sees to the rest: no slot twice, none that `connection` names, and
room for the longest values). A field that has another form is no slot: it is part of the shape.
"""

from __future__ import annotations

import re

MOST_HEAD = 4_096
"""Bytes of a head that is split. Longer ones take the ordinary way."""
ROOM = 256
"""More than the values of all slots take together."""

LENGTH = b"content-length"
REQUEST_ID = b"x-request-id"
TRACE = b"traceparent"
TIMEOUT = b"x-envoy-expected-rq-timeout-ms"
DATE = b"date"

# The first letter is looked at before the names are: 2 us instead of 14 for a head of 1 KB.
_REQUEST = re.compile(
    rb"\r\n(?=[CcXxTt])("
    rb"(?i:content-length): (?=[1-9][0-9]{0,5}\r\n)"
    rb"|(?i:x-request-id): (?=[0-9A-Za-z._-]{1,64}\r\n)"
    rb"|(?i:traceparent): (?=00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\r\n)"
    rb"|(?i:x-envoy-expected-rq-timeout-ms): (?=[1-9][0-9]{0,8}\r\n)"
    rb")([^\r]++)"
)
_ANSWER = re.compile(
    rb"\r\n(?=[CcDd])("
    rb"(?i:content-length): (?=[1-9][0-9]{0,5}\r\n)"
    rb"|(?i:date): (?=[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\r\n)"
    rb")([^\r]++)"
)

split_request = _REQUEST.split
"""A request head -> constant part, name and value of a slot, constant part, and so on. `parts[2::3]` are the values,
and the rest is the shape (`shape_of`)."""
split_answer = _ANSWER.split
"""The same for the head of an answer."""


Shape = tuple[bytes, ...]
"""What heads of one shape have in common: constant parts, then the names of the slots between them."""


def shape_of(parts: list[bytes]) -> Shape:
    """The shape of a head that was split."""
    return (*parts[::3], *parts[1::3])


def slots_of(parts: list[bytes]) -> dict[bytes, int] | None:
    """Which slots a head has: the place of each among its values. None: one is there twice.

    Args:
        parts: of `split_request` or `split_answer`, with the values.
    """
    names = [name[:-2].lower() for name in parts[1::3]]
    return {name: place for place, name in enumerate(names)} if len({*names}) == len(names) else None
