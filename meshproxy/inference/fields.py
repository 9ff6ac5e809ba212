"""Positions of the fields of a protobuf message, for readers whose findings authorise nothing.

Which model a call is for is read by `protobuf`, which refuses what parsers disagree on. This module takes padded
numbers, so it must not be used for that. It gives positions, so that fields can be cut out, counted or skipped without
a copy.
(https://protobuf.dev/programming-guides/encoding)
"""

from __future__ import annotations

from collections.abc import Iterator

from meshproxy.inference.protobuf import END_GROUP, FIXED32, FIXED64, GROUP, LENGTH, VARINT


class Unreadable(ValueError):
    """The bytes are not a protobuf message; the text says why."""


class TooMuch(Exception):
    """The message can be read, but that would take too long."""


class Work:
    """How many fields may still be looked at."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left

    def spend(self, count: int) -> None:
        """Raises TooMuch."""
        self.left -= count
        if self.left < 0:
            raise TooMuch


def read_varint(data: bytes | bytearray, at: int, stop: int) -> tuple[int, int]:
    """An unsigned number and the position after it; position 0 if it does not end before `stop`.

    Raises:
        Unreadable: it has more than ten bytes.
    """
    number = shift = 0
    while at < stop:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift == 70:
            raise Unreadable("a varint is too long")
    return 0, 0


def read_field(data: bytes | bytearray, at: int, stop: int) -> tuple[int, int, int]:
    """The field whose tag is at `at`: the tag, and where its value begins and ends. 0.2 µs.

    The value of a group is empty: its fields follow, and the field that ends it. A value may end beyond `stop`, except
    that of a varint. The tag is 0 where tag, length or varint do not end before `stop`.

    Raises:
        Unreadable: there is no such field.
    """
    tag = data[at] if at < stop else 0x80
    if tag < 0x80:
        begin = at + 1
    else:
        tag, begin = read_varint(data, at, stop)
        if not begin:
            return 0, at, at
    if tag < 8:
        raise Unreadable("a field has number 0")
    wire = tag & 7
    if wire == LENGTH:
        size = data[begin] if begin < stop else 0x80
        if size < 0x80:
            begin += 1
        else:
            size, begin = read_varint(data, begin, stop)
            if not begin:
                return 0, at, at
        return tag, begin, begin + size
    if wire == VARINT:
        if begin < stop and data[begin] < 0x80:
            return tag, begin, begin + 1
        _, end = read_varint(data, begin, stop)
        return (tag, begin, end) if end else (0, at, at)
    if wire == FIXED32:
        return tag, begin, begin + 4
    if wire == FIXED64:
        return tag, begin, begin + 8
    if wire in (GROUP, END_GROUP):
        return tag, begin, begin
    raise Unreadable(f"wire type {wire} does not exist")


def fields(data: bytes, at: int, stop: int, work: Work) -> Iterator[tuple[int, int, int]]:
    """The fields of the message from `at` to `stop` without groups and their content, each as from `read_field`.

    Raises:
        Unreadable: while they are taken.
        TooMuch: the same.
    """
    groups = 0
    while at < stop:
        work.left -= 1
        if work.left < 0:
            raise TooMuch
        tag, begin, at = read_field(data, at, stop)
        if not tag or at > stop:
            raise Unreadable("a message is cut short")
        wire = tag & 7
        if wire == GROUP:
            groups += 1
        elif wire == END_GROUP:
            groups -= 1
            if groups < 0:
                raise Unreadable("a group ends that did not begin")
        elif not groups:
            yield tag, begin, at
    if groups:
        raise Unreadable("a message is cut short")
