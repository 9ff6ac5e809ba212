"""Heads that a connection has read already. Clients repeat theirs byte for byte, servers theirs for a second."""

from __future__ import annotations

import re

from meshproxy.codec.h1.head import Request, Response, parse_request, parse_response
from meshproxy.codec.limits import Limits

_HEADS = 4
_BYTES = 4_096
"""A memo keeps this many heads up to this size: every idle connection holds them."""

_TRACE = b"\r\ntraceparent: "
_TRACE_LINE = re.compile(rb"\r\ntraceparent: ([0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2})(?=\r\n)")


class RequestMemo:
    """Reads heads of requests: 0.5 us for one that came before, 11 us for another.

    A traced client sends another `traceparent` each time (W3C Trace Context section 3.2) and nothing else that differs.
    So that line is cut out of what is compared, if its form is the strict one, and its value is put in again: 2 us.
    """

    __slots__ = ("_limits", "_plain", "_traced")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._plain: dict[bytes, Request] = {}
        self._traced: dict[tuple[int, bytes], tuple[Request, int]] = {}
        """By where the line was cut out, and what is left; with the field's place in `headers`."""

    def parse(self, head: bytes) -> Request:
        """As `parse_request`."""
        start = head.find(_TRACE)
        match = None if start < 0 else _TRACE_LINE.match(head, start)
        if match is None:
            request = self._plain.get(head)
            if request is None:
                request = parse_request(head, self._limits)
                if len(head) <= _BYTES:
                    if len(self._plain) >= _HEADS:
                        self._plain.clear()
                    self._plain[head] = request
            return request
        key = start, head[:start] + head[match.end() :]
        found = self._traced.get(key)
        if found is not None:
            (method, authority, target, headers, length, chunked, expects, is_http10, closes), place = found
            traced = (*headers[:place], (b"traceparent", match[1]), *headers[place + 1 :])
            return Request(method, authority, target, traced, length, chunked, expects, is_http10, closes)
        request = parse_request(head, self._limits)
        field = b"traceparent", match[1]
        # Not there: the client named it in `connection`.
        if len(head) <= _BYTES and field in request.headers:
            if len(self._traced) >= _HEADS:
                self._traced.clear()
            self._traced[key] = request, request.headers.index(field)
        return request


class ResponseMemo:
    """Reads heads of responses."""

    __slots__ = ("_known", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._known: dict[bytes, Response] = {}

    def parse(self, head: bytes) -> Response:
        """As `parse_response`."""
        response = self._known.get(head)
        if response is None:
            response = parse_response(head, self._limits)
            if len(head) <= _BYTES:
                if len(self._known) >= _HEADS:
                    self._known.clear()
                self._known[head] = response
        return response
