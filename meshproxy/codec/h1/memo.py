"""Caches of parsed heads, per connection. Clients repeat theirs byte for byte, servers for a second (`date`)."""

from __future__ import annotations

import re
from typing import TypeVar

from meshproxy.codec.h1.head import ParsedRequest, ParsedResponse, parse_request, parse_response
from meshproxy.codec.limits import Limits

Head = TypeVar("Head", ParsedRequest, ParsedResponse)

_HEADS = 4
_BYTES = 4_096
"""Entries of a cache, and the size of one: every idle connection holds them."""

_TRACE = b"\r\ntraceparent: "
_TRACE_LINE = re.compile(rb"\r\ntraceparent: ([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(?=\r\n)")


class RequestMemo:
    """Parses request heads: 0.4 us for a cached one, 11 us for another.

    A traced client sends another `traceparent` each time (W3C Trace Context section 3.2) and nothing else that differs.
    So that line, if its form is the strict one, is cut out of what is looked up: 1.7 us.
    """

    __slots__ = ("_limits", "_plain", "_traced")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._plain: dict[bytes, ParsedRequest] = {}
        """By the whole head."""
        self._traced: dict[bytes, ParsedRequest] = {}
        """By the head without its trace line: requests whose only `traceparent` that line was."""

    def parse(self, head: bytes) -> ParsedRequest:
        """As `parse_request`."""
        start = head.find(_TRACE)
        match = None if start < 0 else _TRACE_LINE.match(head, start)
        if match is None:
            request = self._plain.get(head)
            if request is None:
                request = parse_request(head, self._limits)
                _keep(self._plain, head, request)
            return request
        trace = match[1]
        rest = head[:start] + head[match.end() :]
        known = self._traced.get(rest)
        if known is not None:
            method, authority, target, headers, length, chunked, expects, is_http10, closes, _ = known
            return ParsedRequest(method, authority, target, headers, length, chunked, expects, is_http10, closes, trace)
        request = parse_request(head, self._limits)
        # Otherwise there is another `traceparent`, or `connection` names it.
        if request.trace == trace:
            _keep(self._traced, rest, request)
        return request


class ResponseMemo:
    """Reads heads of responses."""

    __slots__ = ("_known", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, ParsedResponse] = {}

    def parse(self, head: bytes) -> ParsedResponse:
        """As `parse_response`."""
        response = self._known.get(head)
        if response is None:
            response = parse_response(head, self._limits)
            _keep(self._known, head, response)
        return response


def _keep(known: dict[bytes, Head], key: bytes, head: Head) -> None:
    if len(key) <= _BYTES:
        if len(known) >= _HEADS:
            known.clear()
        known[key] = head
