"""The grammar of heads: request line or status line, fields, trailers (RFC 9112 sections 2 to 5, RFC 9110 section 5).

A well-formed head is one match of one regular expression; nothing is repaired. Only a head that does not match is
looked at line by line, to say what is wrong with it. A head whose end has not come is looked at in the same way as its
lines come: so it is refused for the same reason however it was cut, and without waiting for its end.

The repetitions are possessive: no input makes the matcher go back and try again. (No group is captured inside of one,
which CPython before 3.11.5 gets wrong.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from meshproxy.codec.events import Headers
from meshproxy.codec.headers import (
    FRAMING,
    MAX_LENGTH,
    ORIGIN_FORM,
    TOKEN,
    TRACE_PARENT,
    has_other_spelling,
    is_framing_alias,
    is_same_authority,
    may_be_trailer,
)
from meshproxy.codec.limits import Limits
from meshproxy.codec.problem import Malformed, MessageProblem, Unacceptable


class ParsedRequest(NamedTuple):
    """A parsed request head; shared by all requests with the same bytes."""

    method: bytes
    authority: bytes
    target: bytes
    headers: Headers
    length: int | None
    chunked: bool
    expects_continue: bool
    is_http10: bool
    closes: bool
    trace: bytes | None


class ParsedResponse(NamedTuple):
    """A parsed response head."""

    status: int
    headers: Headers
    length: int | None
    chunked: bool
    closes: bool


_VALUE = rb"[\t -~\x80-\xff]*+"
_FIELD_LINE = TOKEN + rb"{1,256}+:" + _VALUE + rb"\r\n"
_NAME_BYTES = 256

_REQUEST = re.compile(
    rb"(" + TOKEN + rb"{1,32}+) (?:(" + ORIGIN_FORM + rb")|([!-~]++)) HTTP/1\.([01])\r\n"
    rb"((?:" + _FIELD_LINE + rb")*+)\r\n"
)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + _VALUE + rb")?+\r\n((?:" + _FIELD_LINE + rb")*+)\r\n")
_FIELDS = re.compile(rb"([^:]++):[ \t]*+([^\r]*+)\r\n")
"""Takes apart what the expressions above have found well-formed. Values keep trailing white space: see `_split`."""

_REQUEST_LINE = re.compile(rb"(" + TOKEN + rb"+) (?:(" + ORIGIN_FORM + rb")|([!-~]+)) HTTP/([0-9])\.([0-9])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9]{2}(?: " + _VALUE + rb")?+\r\n")
_FIELD = re.compile(_FIELD_LINE)
_NAME = re.compile(TOKEN + rb"+")
_PRINTABLE = bytes(range(0x20, 0x7F))
_ABSOLUTE_FORM = re.compile(rb"(?i:(https?))://([^/?]+)(" + ORIGIN_FORM + rb"|)")
_AUTHORITY = re.compile(
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})+(?::[0-9]{0,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{0,5})?"
)
_LENGTH = re.compile(rb"[0-9]{1,19}")
_OPTIONS = re.compile(rb"(?:" + TOKEN + rb"*+[ \t]*+,[ \t]*+)*+" + TOKEN + rb"*+")
_CODINGS = re.compile(TOKEN + rb"++(?:[ \t]*+,[ \t]*+" + TOKEN + rb"++)*+")

_RARE = FRAMING - {b"host", b"content-length"}
_NOTHING: frozenset[bytes] = frozenset()


def parse_request(head: bytes, limits: Limits) -> ParsedRequest:
    """Read a complete head, blank line included. Raises `MessageProblem`."""
    match = _REQUEST.fullmatch(head)
    if match is None or len(head) > limits.header_bytes:
        raise _diagnose(head, limits, check_request_line)
    method, target, other, minor, block = match.groups()
    if len(target or other) > limits.target_bytes or method == b"CONNECT":
        check_request_line(head, limits)
    fields = _split(block)
    _check_size(head, match.end(4), fields, limits, check_request_line)
    by_name = dict(fields)
    is_http10 = minor == b"0"

    host = by_name.get(b"host")
    if len(by_name) != len(fields):
        _refuse_repeated(fields)
    if host is None:
        if not is_http10:
            raise Malformed("the request has no host field")
        host = b""
    elif _AUTHORITY.fullmatch(host) is None:
        raise Malformed("the host field is not a host name and port")
    if target is None:
        host, target = _read_other_form(method, other, host)

    for name in by_name:
        if has_other_spelling(name) and is_framing_alias(name):
            raise Malformed(f"{name.decode()} could be read as a field that frames the message")

    length = _read_length(by_name, limits)
    chunked = expects_continue = False
    closes = is_http10
    dropped = _NOTHING
    if not _RARE.isdisjoint(by_name):
        if b"transfer-encoding" in by_name:
            if is_http10:
                raise Malformed("HTTP/1.0 has no transfer-encoding")
            _check_coding(by_name)
            chunked = True
        closes, dropped = _read_connection(fields, is_http10)
        expectation = by_name.get(b"expect")
        if expectation is not None:
            if expectation.lower() != b"100-continue":
                raise Unacceptable(417, "the expect field asks for something other than 100-continue")
            # HTTP/1.0 has no interim responses (RFC 9110 section 10.1.1); without a body there is nothing to wait for.
            expects_continue = not is_http10 and (chunked or bool(length))
    headers = tuple([field for field in fields if field[0] not in FRAMING and field[0] not in dropped])
    trace = None
    if TRACE_PARENT in by_name:
        headers, trace = _take_trace(headers)
    return ParsedRequest(method, host, target, headers, length, chunked, expects_continue, is_http10, closes, trace)


def parse_response(head: bytes, limits: Limits) -> ParsedResponse:
    """Read a complete head, blank line included. Raises `MessageProblem`."""
    match = _RESPONSE.fullmatch(head)
    if match is None or len(head) > limits.header_bytes:
        raise _diagnose(head, limits, check_status_line)
    minor, code, block = match.groups()
    fields = _split(block)
    _check_size(head, match.start(3) - 2, fields, limits, check_status_line)
    by_name = dict(fields)
    if len(by_name) != len(fields):
        _refuse_repeated(fields)
    is_http10 = minor == b"0"
    length = _read_length(by_name, limits)
    chunked = False
    closes = is_http10
    dropped = _NOTHING
    if not _RARE.isdisjoint(by_name):
        if b"transfer-encoding" in by_name:
            if is_http10:
                raise Malformed("HTTP/1.0 has no transfer-encoding")
            _check_coding(by_name)
            chunked = True
        closes, dropped = _read_connection(fields, is_http10)
    headers = tuple([field for field in fields if field[0] not in FRAMING and field[0] not in dropped])
    return ParsedResponse(int(code), headers, length, chunked, closes)


def parse_trailers(block: bytes) -> Headers:
    """Take apart trailer lines that `check_fields` has passed, without what must not stand there."""
    return without_forbidden(_split(block))


def without_forbidden(trailers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Trailers without the fields that must stand before the body, or nowhere."""
    return tuple([field for field in trailers if may_be_trailer(field[0])])


def check_head(data: bytes, checked: int, limits: Limits, check_start: Callable[[bytes, Limits], int]) -> int:
    """Check the lines of an unfinished head that have come since the last call.

    Args:
        data: the head from its first byte.
        checked: what the last call returned; 0 at first.
        check_start: `check_request_line` or `check_status_line`.

    Returns:
        Where the first line begins that has no end yet.

    Raises:
        MessageProblem: a line is wrong, or a limit is exceeded already.
    """
    if not checked:
        checked = check_start(data, limits)
        if not checked:
            return 0
    return check_fields(data, checked, limits, before=1)


def check_fields(data: bytes, checked: int, limits: Limits, *, before: int = 0) -> int:
    """Check the field lines of `data` from `checked` on, up to a blank line or the last line that is complete.

    `before` is the number of lines at the beginning of `data` that are no fields. Returns and raises as `check_head`.
    """
    count = -1
    while (end := data.find(b"\n", checked) + 1) and data[checked:end] != b"\r\n":
        if count < 0:
            count = data.count(b"\n", 0, checked) - before
        count += 1
        if end > limits.header_bytes:
            break
        if count > limits.header_count:
            raise _too_many(limits)
        if (
            _FIELD.fullmatch(data, checked, end) is None
            or data.find(b":", checked) - checked > limits.header_name_bytes
        ):
            raise _diagnose_field(data[checked:end], limits)
        checked = end
    if len(data) > limits.header_bytes:
        raise _too_large(limits)
    return checked


def check_request_line(data: bytes, limits: Limits) -> int:
    """Check the first line of `data`, or what there is of it. Returns where the next begins, 0 if the line has no end
    yet; raises `MessageProblem`."""
    bound = limits.target_bytes + 64
    end = data.find(b"\n", 0, bound) + 1
    line = data[: end or bound]
    _check_start(line, "request line")
    if not end:
        if len(data) > bound:
            raise Unacceptable(414, f"the request line is longer than {bound} bytes", "target_bytes")
        return 0
    match = _REQUEST_LINE.fullmatch(line)
    if match is None:
        raise Malformed("the request line is not of the form: method, target, HTTP version")
    method, target, other, major, minor = match.groups()
    if len(method) > 32:
        raise Unacceptable(501, "the method is too long")
    if major != b"1" or minor not in (b"0", b"1"):
        raise Unacceptable(505, "only HTTP/1.0 and HTTP/1.1 are supported")
    if method == b"CONNECT":
        raise Unacceptable(501, "CONNECT is not supported")
    if len(target or other) > limits.target_bytes:
        raise Unacceptable(414, f"the request target is longer than {limits.target_bytes} bytes", "target_bytes")
    return end


def check_status_line(data: bytes, limits: Limits) -> int:
    """As `check_request_line`, for a response."""
    end = data.find(b"\n", 0, limits.header_bytes) + 1
    if not end:
        start = data[:9]
        if not (b"HTTP/1.1 ".startswith(start) or b"HTTP/1.0 ".startswith(start)):
            raise Malformed("the response does not begin with a status line of HTTP/1.0 or HTTP/1.1")
        if len(data) > limits.header_bytes:
            raise _too_large(limits)
        return 0
    if _STATUS_LINE.fullmatch(data, 0, end) is None:
        raise Malformed("the response does not begin with a status line of HTTP/1.0 or HTTP/1.1")
    return end


def _take_trace(headers: Headers) -> tuple[Headers, bytes | None]:
    """The fields without `traceparent`, and its value if there is exactly one."""
    values = [value for name, value in headers if name == TRACE_PARENT]
    return tuple([field for field in headers if field[0] != TRACE_PARENT]), values[0] if len(values) == 1 else None


def _split(block: bytes) -> list[tuple[bytes, bytes]]:
    fields = [(name.lower(), value) for name, value in _FIELDS.findall(block)]
    if b" \r" in block or b"\t\r" in block:
        fields = [(name, value.rstrip(b" \t")) for name, value in fields]
    return fields


def _check_size(
    head: bytes,
    start_line: int,
    fields: list[tuple[bytes, bytes]],
    limits: Limits,
    check_start: Callable[[bytes, Limits], int],
) -> None:
    """Hold the limits that the expressions do not. The size is counted as in RFC 9113 section 10.5.1; rounded up first,
    which is enough for all but very large heads."""
    count = len(fields)
    if count > limits.header_count:
        raise _diagnose(head, limits, check_start)
    if limits.header_name_bytes < _NAME_BYTES and any(len(name) > limits.header_name_bytes for name, _ in fields):
        raise _diagnose(head, limits, check_start)
    if (
        len(head) + 32 * count > limits.header_bytes
        and start_line + sum([len(name) + len(value) + 32 for name, value in fields]) > limits.header_bytes
    ):
        raise _too_large(limits)


def _refuse_repeated(fields: list[tuple[bytes, bytes]]) -> None:
    """Of what frames or routes there may be one, even if two agree: the next parser may take the other
    (RFC 9112 section 6.3 lets a recipient refuse; CVE-2023-40225 and its family)."""
    names = [name for name, _ in fields]
    for name in (b"host", b"content-length", b"transfer-encoding", b"expect"):
        if names.count(name) > 1:
            reason = f"there is more than one {name.decode()} field"
            raise Unacceptable(417, reason) if name == b"expect" else Malformed(reason)


def _read_other_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Authority and target of a request that is not in origin-form (RFC 9112 section 3.2)."""
    if target == b"*":
        if method != b"OPTIONS":
            raise Malformed("the request target * is for OPTIONS only")
        return host, target
    match = _ABSOLUTE_FORM.fullmatch(target) or _ABSOLUTE_FORM.fullmatch(target.replace(b"?", b"/?", 1))
    if match is None:
        raise Malformed("the request target is neither a path and query of RFC 3986 nor an http address")
    scheme, authority, path = match.groups()
    if _AUTHORITY.fullmatch(authority) is None:
        raise Malformed("the request target names no valid host and port")
    if host and not is_same_authority(host, authority, scheme):
        raise Malformed("the request target and the host field name different hosts")
    return authority, path or (b"*" if method == b"OPTIONS" else b"/")


def _read_length(by_name: dict[bytes, bytes], limits: Limits) -> int | None:
    value = by_name.get(b"content-length")
    if value is None:
        return None
    # Digits of ASCII only: int() would take signs, underscores and other scripts' digits (CVE-2023-47627).
    if _LENGTH.fullmatch(value) is None:
        raise Malformed("content-length is not a decimal number")
    length = int(value)
    if length > MAX_LENGTH:
        raise Malformed("content-length is out of range")
    if limits.body_bytes is not None and length > limits.body_bytes:
        raise Unacceptable(413, f"the body is larger than {limits.body_bytes} bytes", "body_bytes")
    return length


def _check_coding(by_name: dict[bytes, bytes]) -> None:
    """Transfer-encoding must be chunked, alone, and not beside content-length (RFC 9112 sections 6.1 and 6.3)."""
    value = by_name[b"transfer-encoding"].lower()
    if b"content-length" in by_name:
        raise Malformed("the message has both content-length and transfer-encoding")
    if value == b"chunked":
        return
    if _CODINGS.fullmatch(value) is not None:
        codings = [coding.strip(b" \t") for coding in value.split(b",")]
        if codings[-1] == b"chunked" and codings.count(b"chunked") == 1:
            raise Unacceptable(501, "only chunked is supported as transfer-encoding")
    raise Malformed("transfer-encoding is not chunked")


def _read_connection(fields: list[tuple[bytes, bytes]], is_http10: bool) -> tuple[bool, frozenset[bytes]]:
    """Whether the connection closes after this message, and which fields are for this connection only
    (RFC 9110 section 7.6.1, RFC 9112 section 9.3)."""
    value = b",".join([value for name, value in fields if name == b"connection"])
    if not value:
        return is_http10, _NOTHING
    if _OPTIONS.fullmatch(value) is None:
        raise Malformed("the connection field is not a list of names")
    options = frozenset([option.strip(b" \t") for option in value.lower().split(b",")])
    if b"content-length" in options or b"host" in options or b"transfer-encoding" in options:
        raise Malformed("the connection field nominates a field that frames or routes the message")
    closes = b"close" in options or (is_http10 and b"keep-alive" not in options)
    return closes, options


def _diagnose(head: bytes, limits: Limits, check_start: Callable[[bytes, Limits], int]) -> MessageProblem:
    try:
        check_head(head, 0, limits, check_start)
    except MessageProblem as problem:
        return problem
    return Malformed("the head is malformed")


def _check_start(line: bytes, what: str) -> None:
    content = line[:-1] if line.endswith((b"\n", b"\r")) else line
    if line.endswith(b"\r\n"):
        content = line[:-2]
    if content.translate(None, _PRINTABLE):
        raise Malformed(f"the {what} contains a byte that is not printable ASCII")
    if line.endswith(b"\n") and not line.endswith(b"\r\n"):
        raise Malformed(f"the {what} does not end with CR LF")


def _diagnose_field(line: bytes, limits: Limits) -> MessageProblem:
    name, colon, _ = line.partition(b":")
    if line[:1] in (b" ", b"\t"):
        return Malformed("a field line begins with white space")
    if not line.endswith(b"\r\n"):
        return Malformed("a field line does not end with CR LF")
    if not colon:
        return Malformed("a field line has no colon")
    if not name:
        return Malformed("a field has no name")
    if _NAME.fullmatch(name) is None:
        return Malformed("the name of a field contains white space or another invalid character")
    if len(name) > min(_NAME_BYTES, limits.header_name_bytes):
        return _too_long(limits)
    return Malformed("the value of a field contains a control character")


def _too_many(limits: Limits) -> MessageProblem:
    return Unacceptable(431, f"the head has more than {limits.header_count} fields", "header_count")


def _too_large(limits: Limits) -> MessageProblem:
    return Unacceptable(431, f"the head is larger than {limits.header_bytes} bytes", "header_bytes")


def _too_long(limits: Limits) -> MessageProblem:
    longest = min(_NAME_BYTES, limits.header_name_bytes)
    return Unacceptable(431, f"the name of a field is longer than {longest} bytes", "header_name_bytes")
