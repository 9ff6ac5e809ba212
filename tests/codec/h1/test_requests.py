"""What clients may send and what they may not, as a table: smuggling first (CVE ids and products in the comments).

Every row is read whole, byte by byte, in pieces, cut around every line end, and with another request behind it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshproxy.codec.events import Data, Event, Rejected, RequestHead, Trailers
from meshproxy.codec.h1.connection import H1Connection
from meshproxy.codec.limits import Limits
from meshproxy.codec.role import Role

Agree = Callable[[Callable[[], H1Connection], bytes], list[Event]]

BEHIND = b"GET /behind HTTP/1.1\r\nhost: evil\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nhost: a\r\n"
POST = b"POST / HTTP/1.1\r\nhost: a\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
NO_CONTROL = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]


def server() -> H1Connection:
    return H1Connection(Role.SERVER, Limits())


# Refused heads: name -> (wire, status). No event but the refusal.
HEADS: dict[str, tuple[bytes, int]] = {
    # Two framings (CVE-2020-10109, Twisted; the classic).
    "cl-and-te": (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-and-cl": (POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400),
    "te-and-cl-upper": (POST + b"TRANSFER-ENCODING: CHUNKED\r\nCONTENT-LENGTH: 5\r\n\r\n0\r\n\r\n", 400),
    "te-identity-and-cl": (POST + b"transfer-encoding: identity\r\ncontent-length: 5\r\n\r\nhello", 400),
    "te-empty-and-cl": (POST + b"transfer-encoding:\r\ncontent-length: 5\r\n\r\nhello", 400),
    "te-comma-and-cl": (POST + b"transfer-encoding: ,chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400),
    # Several lengths (CVE-2020-10108, CVE-2023-40225; relayd, H2O, fasthttp in the HTTP Garden).
    "cl-twice-different": (POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello", 400),
    "cl-twice-same": (POST + b"content-length: 5\r\ncontent-length: 5\r\n\r\nhello", 400),
    "cl-twice-apart": (POST + b"content-length: 5\r\nx: y\r\nContent-Length: 0\r\n\r\nhello", 400),
    "cl-twice-empty-first": (POST + b"content-length: \r\ncontent-length: 43\r\n\r\n", 400),
    "cl-list-same": (POST + b"content-length: 5, 5\r\n\r\nhello", 400),
    "cl-list-different": (POST + b"content-length: 5,6\r\n\r\nhello", 400),
    "cl-list-trailing-comma": (POST + b"content-length: 5,\r\n\r\nhello", 400),
    # A length that int() or strtol() would take (CVE-2023-47627; Garden servers 1, 10, 16, 26, 29, 32, 42).
    "cl-empty": (POST + b"content-length:\r\n\r\n", 400),
    "cl-empty-spaces": (POST + b"content-length:  \t \r\n\r\n", 400),
    "cl-plus": (POST + b"content-length: +5\r\n\r\nhello", 400),
    "cl-minus": (POST + b"content-length: -5\r\n\r\nhello", 400),
    "cl-minus-zero": (POST + b"content-length: -0\r\n\r\n", 400),
    "cl-underscore": (POST + b"content-length: 0_5\r\n\r\nhello", 400),
    "cl-hex": (POST + b"content-length: 0x5\r\n\r\nhello", 400),
    "cl-float": (POST + b"content-length: 5.0\r\n\r\nhello", 400),
    "cl-exponent": (POST + b"content-length: 5e0\r\n\r\nhello", 400),
    "cl-inner-space": (POST + b"content-length: 1 2\r\n\r\nhello", 400),
    "cl-suffix": (POST + b"content-length: 5Z\r\n\r\nhello", 400),
    "cl-quoted": (POST + b'content-length: "5"\r\n\r\nhello', 400),
    "cl-arabic-digit": (POST + "content-length: \u0665\r\n\r\nhello".encode(), 400),
    "cl-fullwidth-digit": (POST + "content-length: \uff15\r\n\r\nhello".encode(), 400),
    "cl-nbsp": (POST + b"content-length: \xa05\r\n\r\nhello", 400),
    "cl-nel": (POST + b"content-length: 5\x85\r\n\r\nhello", 400),
    "cl-vtab": (POST + b"content-length: \x0b5\r\n\r\nhello", 400),
    "cl-form-feed": (POST + b"content-length: 5\x0c\r\n\r\nhello", 400),
    "cl-2^63": (POST + b"content-length: 9223372036854775808\r\n\r\n", 400),
    "cl-2^64+5": (POST + b"content-length: 18446744073709551621\r\n\r\nhello", 400),
    "cl-20-zeros": (POST + b"content-length: 00000000000000000005\r\n\r\nhello", 400),
    "cl-5000-digits": (POST + b"content-length: " + b"9" * 5000 + b"\r\n\r\n", 400),
    "cl-name-space": (POST + b"content-length : 5\r\n\r\nhello", 400),
    "cl-name-tab": (POST + b"content-length\t: 5\r\n\r\nhello", 400),
    "cl-name-nel": (POST + b"content-length\x85: 5\r\n\r\nhello", 400),
    "cl-no-colon": (POST + b"content-length 5\r\n\r\nhello", 400),
    "cl-first-line-indented": (b"POST / HTTP/1.1\r\n\tcontent-length: 5\r\n\r\nhello", 400),
    "cl-behind-long-name": (
        POST + b"x" * 270 + b": y\r\ncontent-length: 5\r\ncontent-length: 0\r\n\r\nhello",
        431,
    ),  # CVE-2021-40346
    # Transfer codings (CVE-2024-1135, CVE-2024-6827, CVE-2019-18277, CVE-2025-69224; Garden 11, 12, 21, 44, 46).
    "te-identity": (POST + b"transfer-encoding: identity\r\n\r\n0\r\n\r\n", 400),
    "te-unknown": (POST + b"transfer-encoding: blegh\r\n\r\n0\r\n\r\n", 400),
    "te-empty": (POST + b"transfer-encoding:\r\n\r\n0\r\n\r\n", 400),
    "te-gzip-chunked": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "te-chunked-gzip": (POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "te-chunked-identity": (POST + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    "te-chunked-chunked": (POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "te-chunkedchunked": (POST + b"transfer-encoding: chunkedchunked\r\n\r\n0\r\n\r\n", 400),
    "te-xchunked": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "te-quoted": (POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "te-parameter": (POST + b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
    "te-leading-comma": (POST + b"transfer-encoding: ,chunked\r\n\r\n0\r\n\r\n", 400),
    "te-trailing-comma": (POST + b"transfer-encoding: chunked,\r\n\r\n0\r\n\r\n", 400),
    "te-inner-space": (POST + b"transfer-encoding: chu nked\r\n\r\n0\r\n\r\n", 400),
    "te-kelvin-sign": (POST + "transfer-encoding: chun\u212aed\r\n\r\n0\r\n\r\n".encode(), 400),
    "te-vtab": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "te-nbsp": (POST + b"transfer-encoding: \xa0chunked\r\n\r\n0\r\n\r\n", 400),
    "te-nel": (POST + b"transfer-encoding: chunked\x85\r\n\r\n0\r\n\r\n", 400),
    "te-ff": (POST + b"transfer-encoding: \xffchunked\xff\r\n\r\n0\r\n\r\n", 400),
    "te-nul": (POST + b"transfer-encoding: chunked\x00\r\n\r\n0\r\n\r\n", 400),
    "te-two-lines-same": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-two-lines-identity": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n", 400),
    "te-two-lines-identity-first": (POST + b"transfer-encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "te-two-lines-cow": (POST + b"transfer-encoding: cow\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    "te-space-colon": (POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "te-name-cr": (POST + b"transfer\r-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-name-split": (POST + b"transfer-\r\nencoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-name-underscore": (POST + b"transfer_encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-name-dot": (POST + b"Transfer.Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "cl-name-plus": (POST + b"content+length: 5\r\ncontent-length: 0\r\n\r\n", 400),
    "cl-name-underscore": (POST + b"content_length: 5\r\ncontent-length: 0\r\n\r\n", 400),
    "connection-name-underscore": (POST + b"proxy_connection: close\r\ncontent-length: 0\r\n\r\n", 400),
    "te-name-underscore-nul": (POST + b"transfer-encoding\x00: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-folded": (POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "te-folded-tail": (POST + b"transfer-encoding: chunked\r\n\tx\r\n\r\n0\r\n\r\n", 400),
    "te-folded-behind-other": (POST + b"x: y\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-http10": (b"POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "te-http10-keep-alive": (
        b"POST / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "te-http10-and-cl": (b"POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\nhello", 400),
    # Line ends (CVE-2022-32214, CVE-2023-30589, CVE-2025-23167; Garden 9, 13, 19, 30; transducers 10, 16, 20).
    "lf-all": (b"GET / HTTP/1.1\nhost: a\n\n", 400),
    "lf-request-line": (b"GET / HTTP/1.1\nhost: a\r\n\r\n", 400),
    "lf-field": (GET + b"x: y\nz: w\r\n\r\n", 400),
    "lf-hides-field": (GET + b"x:x\ntransfer-encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n", 400),
    "lf-last-field": (GET + b"x: y\n\r\n", 400),
    "lf-blank-line": (GET + b"x: y\r\n\n", 400),
    "lf-in-request-line": (b"GET /\nHTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "lf-first": (b"\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "lf-lf-value": (GET + b"useless:\n\nGET /evil HTTP/1.1\r\n\r\n", 400),
    "cr-only": (b"GET / HTTP/1.1\rhost: a\r\r", 400),
    "cr-in-value": (GET + b"x: y\rz: w\r\n\r\n", 400),
    "cr-hides-field": (GET + b"x:\rtransfer-encoding: chunked\r\n\r\n1\r\nA\r\n0\r\n\r\n", 400),
    "cr-cr-lf": (GET + b"x: y\r\r\n\r\n", 400),
    "cr-at-line-start": (GET + b"\rx: y\r\n\r\n", 400),
    "cr-in-name": (GET + b"x\ry: z\r\n\r\n", 400),
    "cr-in-target": (b"GET /\ra HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "crlf-cr-x": (GET + b"\rZGET /evil: HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "crlf-twice-first": (b"\r\n\r\n" + GET + b"\r\n", 400),
    "space-line-first": (b" \r\n" + GET + b"\r\n", 400),
    # Names (CVE-2019-16276, CVE-2020-8201, CVE-2023-25725; Garden 3, 4, 8, 14, 18, 27, 28).
    "name-empty": (GET + b": y\r\n\r\n", 400),
    "name-empty-value-empty": (GET + b":\r\ni: am chopped off\r\n\r\n", 400),
    "name-space-before": (GET + b" x: y\r\n\r\n", 400),
    "name-space-behind": (GET + b"x : y\r\n\r\n", 400),
    "name-space-inside": (GET + b"x y: z\r\n\r\n", 400),
    "name-no-colon": (GET + b"x\r\n\r\n", 400),
    "name-obs-text": (GET + b"\xefoo: y\r\n\r\n", 400),
    "name-257-bytes": (GET + b"x" * 257 + b": y\r\n\r\n", 431),
    "fold-space": (GET + b"x: y\r\n z\r\n\r\n", 400),
    "fold-tab": (GET + b"x: y\r\n\tz\r\n\r\n", 400),
    "fold-blank": (GET + b"x: y\r\n \r\n\r\n", 400),
    "fold-first": (b"GET / HTTP/1.1\r\n host: a\r\n\r\n", 400),
    # The request line (CVE-2013-4547, CVE-2023-45539, CVE-2021-32779; Garden 5, 6, 7, 15, 24, 40).
    "method-empty": (b" / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "method-separator": (b'G=":<>(e),[T];?" / HTTP/1.1\r\nhost: a\r\n\r\n', 400),
    "method-33-bytes": (b"A" * 33 + b" / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
    "method-connect": (b"CONNECT a:443 HTTP/1.1\r\nhost: a:443\r\n\r\n", 501),
    "method-connect-path": (b"CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
    "line-two-spaces": (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "line-space-behind": (b"GET / HTTP/1.1 \r\nhost: a\r\n\r\n", 400),
    "line-space-before": (b" GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "line-tab": (b"GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "line-http09": (b"GET /\r\n\r\n", 400),
    "line-no-target": (b"GET HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "version-20": (b"GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505),
    "version-12": (b"GET / HTTP/1.2\r\nhost: a\r\n\r\n", 505),
    "version-09": (b"GET / HTTP/0.9\r\nhost: a\r\n\r\n", 505),
    "version-preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "version-long": (b"GET / HTTP/1.32\r\nhost: a\r\n\r\n", 400),
    "version-short": (b"GET / HTTP/1\r\nhost: a\r\n\r\n", 400),
    "version-none": (b"GET / HTTP/\r\nhost: a\r\n\r\n", 400),
    "version-lower": (b"GET / http/1.1\r\nhost: a\r\n\r\n", 400),
    "version-arabic": ("GET / HTTP/\u0661.\u0661\r\nhost: a\r\n\r\n".encode(), 400),
    "version-overflow": (b"GET / HTTP/4294967297.1\r\nhost: a\r\n\r\n", 400),
    "version-leading-zero": (b"GET / HTTP/01.1\r\nhost: a\r\n\r\n", 400),
    "version-other-protocol": (b"GET / ICE/1.0\r\nhost: a\r\n\r\n", 400),
    "target-space": (b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-fragment": (b"GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-fragment-only": (b"GET # HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-no-slash": (b"GET a/b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-bang": (b"GET ! HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-query-only": (b"GET ?a HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-utf8": ("GET /δ HTTP/1.1\r\nhost: a\r\n\r\n".encode(), 400),
    "target-percent-alone": (b"GET /% HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-percent-one-digit": (b"GET /%4 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-percent-no-hex": (b"GET /a?%zz HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-star-get": (b"GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-star-star": (b"OPTIONS ** HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-authority": (b"GET a:80 HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-other-scheme": (b"GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-other-host": (b"GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-other-port": (b"GET http://a:81/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-default-port-of-other-scheme": (b"GET http://a:443/ HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-no-host": (b"GET http:/// HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-user": (b"GET http://u@a/ HTTP/1.1\r\nhost: u@a\r\n\r\n", 400),
    "target-absolute-user-only-there": (b"GET http://a@b/ HTTP/1.1\r\nhost: b\r\n\r\n", 400),
    "target-absolute-fragment": (b"GET http://a/#b HTTP/1.1\r\nhost: a\r\n\r\n", 400),
    "target-absolute-without-host-field": (b"GET http://a/ HTTP/1.1\r\n\r\n", 400),
    "target-8193-bytes": (b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
    "target-endless": (b"GET /" + b"a" * 70_000, 414),
    "target-absolute-8193-bytes": (b"GET http://a/" + b"a" * 8184 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
    # Host (RFC 9112 section 3.2; Garden 35, transducer 12).
    "host-none": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "host-twice": (GET + b"host: b\r\n\r\n", 400),
    "host-twice-same": (GET + b"Host: a\r\n\r\n", 400),
    "host-twice-http10": (b"GET / HTTP/1.0\r\nhost: a\r\nhost: a\r\n\r\n", 400),
    "host-empty": (b"GET / HTTP/1.1\r\nhost:\r\n\r\n", 400),
    "host-list": (b"GET / HTTP/1.1\r\nhost: a, b\r\n\r\n", 400),
    "host-space": (b"GET / HTTP/1.1\r\nhost: a b\r\n\r\n", 400),
    "host-user": (b"GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400),
    "host-path": (b"GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", 400),
    "host-scheme": (b"GET / HTTP/1.1\r\nhost: http://a\r\n\r\n", 400),
    "host-port-word": (b"GET / HTTP/1.1\r\nhost: a:b\r\n\r\n", 400),
    "host-port-twice": (b"GET / HTTP/1.1\r\nhost: a:80:80\r\n\r\n", 400),
    "host-port-long": (b"GET / HTTP/1.1\r\nhost: a:000080\r\n\r\n", 400),
    "host-port-only": (b"GET / HTTP/1.1\r\nhost: :80\r\n\r\n", 400),
    "host-obs-text": (b"GET / HTTP/1.1\r\nhost: \xffa\xff\r\n\r\n", 400),
    "host-nul": (b"GET / HTTP/1.1\r\nhost: a\x00.b\r\n\r\n", 400),
    "host-bracket-open": (b"GET / HTTP/1.1\r\nhost: [::1\r\n\r\n", 400),
    "host-bracket-empty": (b"GET / HTTP/1.1\r\nhost: []\r\n\r\n", 400),
    # Connection and expectations.
    "connection-names-length": (POST + b"connection: content-length\r\ncontent-length: 5\r\n\r\nhello", 400),
    "connection-names-host": (GET + b"connection: close, Host\r\n\r\n", 400),
    "connection-names-te": (POST + b"connection: transfer-encoding\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    "connection-no-list": (GET + b"connection: a b\r\n\r\n", 400),
    "connection-second-line-names-length": (POST + b"connection: close\r\nconnection: content-length\r\n\r\n", 400),
    "expect-other": (POST + b"expect: 200-maybe\r\ncontent-length: 5\r\n\r\n", 417),
    "expect-list": (POST + b"expect: 100-continue, x\r\ncontent-length: 5\r\n\r\n", 417),
    "expect-twice": (POST + b"expect: 100-continue\r\nexpect: x\r\ncontent-length: 5\r\n\r\n", 417),
    "expect-empty": (POST + b"expect:\r\ncontent-length: 5\r\n\r\n", 417),
    # Limits.
    "fields-129": (GET + b"".join(b"x%d: y\r\n" % i for i in range(128)) + b"\r\n", 431),
    "head-65537": (GET + b"x: " + b"y" * (65_537 - len(GET) - 7) + b"\r\n\r\n", 431),
    "head-endless": (GET + b"x: " + b"y" * 70_000, 431),
    "head-padded": (GET + b"x: " + b" " * 70_000 + b"\r\n\r\n", 431),
    # Not HTTP at all: answered at once, before a line has come to its end.
    "tls-hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
}
for byte in NO_CONTROL:
    # CVE-2019-9900, Envoy; Garden 2, 34, 35, 43. 0x7f is DEL.
    ctl = bytes((byte,))
    HEADS[f"ctl-{byte:02x}-value"] = (GET + b"x: a" + ctl + b"b\r\n\r\n", 400)
    HEADS[f"ctl-{byte:02x}-value-start"] = (GET + b"x: " + ctl + b"b\r\n\r\n", 400)
    HEADS[f"ctl-{byte:02x}-value-end"] = (GET + b"x: a" + ctl + b"\r\n\r\n", 400)
    HEADS[f"ctl-{byte:02x}-target"] = (b"GET /a" + ctl + b" HTTP/1.1\r\nhost: a\r\n\r\n", 400)
    HEADS[f"ctl-{byte:02x}-method"] = (b"GE" + ctl + b"T / HTTP/1.1\r\nhost: a\r\n\r\n", 400)
    HEADS[f"ctl-{byte:02x}-host"] = (b"GET / HTTP/1.1\r\nhost: a" + ctl + b"\r\n\r\n", 400)
for byte in [*NO_CONTROL, *b'\t "(),/;<=>?@[\\]{}', 0x80, 0x85, 0xA0, 0xFF]:
    HEADS[f"name-{byte:02x}"] = (GET + b"x" + bytes((byte,)) + b"y: z\r\n\r\n", 400)
    HEADS[f"name-{byte:02x}-end"] = (POST + b"content-length" + bytes((byte,)) + b": 5\r\n\r\nhello", 400)
for byte in [*b'"<>\\^`{|}[]', 0x80, 0xFF]:
    HEADS[f"target-{byte:02x}-path"] = (b"GET /a" + bytes((byte,)) + b" HTTP/1.1\r\nhost: a\r\n\r\n", 400)
    HEADS[f"target-{byte:02x}-query"] = (b"GET /a?" + bytes((byte,)) + b" HTTP/1.1\r\nhost: a\r\n\r\n", 400)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_refused(name: str, agree: Agree) -> None:
    wire, status = HEADS[name]
    for behind in (b"", BEHIND):
        events = agree(server, wire + behind)
        assert len(events) == 1
        (rejected,) = events
        assert isinstance(rejected, Rejected)
        assert (rejected.stream, rejected.status) == (1, status)
        assert rejected.reason
        assert rejected.reason.isascii()
        assert (rejected.limit is not None) == (status in (413, 414, 431))
    connection = server()
    connection.receive(wire + BEHIND)
    assert connection.receive(BEHIND) == []
    assert not connection.held
    assert connection.must_close
    assert b"connection: close" in connection.send_response(status, (), True)
    assert connection.next_message() == []
    assert connection.receive_eof() == []


# Refused bodies: name -> (what follows the head of CHUNKED, what is passed on before the refusal, status).
BODIES: dict[str, tuple[bytes, bytes, int]] = {
    # Sizes (CVE-2021-32715, CVE-2023-47627; Garden 1, 17, 22, 25, 47; transducers 2, 7, 19, 24).
    "chunk-size-empty": (b"\r\n\r\n", b"", 400),
    "chunk-size-empty-later": (b"3\r\nfoo\r\n\r\n\r\n", b"foo", 400),
    "chunk-size-word": (b"Z\r\nZZ\r\n", b"", 400),
    "chunk-size-invalid": (b"INVALID!!!\r\n", b"", 400),
    "chunk-size-plus": (b"+5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-minus": (b"-5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-minus-zero": (b"-0x0\r\n\r\n", b"", 400),
    "chunk-size-0x": (b"0x5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-underscore": (b"0_5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-space-before": (b" 5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-space-behind": (b"5 \r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-tab-behind": (b"5\t\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-suffix": (b"5z\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-comma": (b"5,5\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-arabic": ("\u0665\r\nhello\r\n0\r\n\r\n".encode(), b"", 400),
    "chunk-size-nul": (b"5\x00\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-2^63": (b"8000000000000000\r\nhello", b"", 400),
    "chunk-size-2^64+5": (b"10000000000000005\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-17-zeros": (b"00000000000000005\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-second": (b"5\r\nhello\r\n0x3\r\nfoo\r\n0\r\n\r\n", b"hello", 400),
    # Ends of lines (CVE-2025-22871, CVE-2025-43859, CVE-2024-52304; Garden 31, 36; transducers 3, 13, 17).
    "chunk-size-bare-lf": (b"5\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-bare-cr": (b"5\rhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-cr-cr-lf": (b"5\r\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-size-cr-ext": (b"5\r\r;ABCD\r\n34\r\nE\r\n0\r\n\r\n", b"", 400),
    "chunk-data-no-crlf": (b"5\r\nhello0\r\n\r\n", b"hello", 400),
    "chunk-data-bare-lf": (b"5\r\nhello\n0\r\n\r\n", b"hello", 400),
    "chunk-data-bare-cr": (b"5\r\nhello\r0\r\n\r\n", b"hello", 400),
    "chunk-data-two-junk-bytes": (b"5\r\nhelloXX0\r\n\r\n", b"hello", 400),
    "chunk-data-too-long": (b"5\r\nhello!\r\n0\r\n\r\n", b"hello", 400),
    "chunk-data-extra-crlf": (b"5\r\nhello\r\n\r\n0\r\n\r\n", b"hello", 400),
    "chunk-data-one-byte-run-broken": (b"1\r\na\r\n" * 50 + b"1\r\nab\r\n", b"a" * 51, 400),
    "chunk-last-bare-lf": (b"5\r\nhello\r\n0\n\r\n", b"hello", 400),
    "chunk-last-lf-lf": (b"5\r\nhello\r\n0\r\n\n", b"hello", 400),
    "chunk-last-cr-x": (b"5\r\nhello\r\n0\r\n\rX\r\n\r\n", b"hello", 400),
    "chunk-last-junk": (b"5\r\nhello\r\n0\r\nXX\r\n\r\n", b"hello", 400),
    "chunk-last-minus": (b"5\r\nhello\r\n-0\r\n\r\n", b"hello", 400),
    # Extensions (CVE-2024-22019).
    "chunk-ext-no-semicolon": (b"5 abc\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-no-name": (b"5;\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-no-name-value": (b"5;=a\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-no-value": (b"5;a=\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-bare-lf": (b"5;a\nb\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-bare-cr": (b"5;a\rb\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-lf-end": (b"5;a\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-nul": (b"5;a\x00\r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-del-quoted": (b'5;a="\x7f"\r\nhello\r\n0\r\n\r\n', b"", 400),
    "chunk-ext-unbalanced-quote": (b'5;a="b; c\r\nhello\r\n0\r\n\r\n', b"", 400),
    "chunk-ext-quote-escapes-end": (b'5;a="b\\"\r\nhello\r\n0\r\n\r\n', b"", 400),
    "chunk-ext-space-behind": (b"5;a \r\nhello\r\n0\r\n\r\n", b"", 400),
    "chunk-ext-17k": (b"5;a=" + b"x" * 17_000 + b"\r\nhello\r\n0\r\n\r\n", b"", 413),
    "chunk-ext-endless": (b"5;" + b"x" * 5_000, b"", 413),
    "chunk-ext-many": (b"1;a\r\nx\r\n" * 3_000 + b"0\r\n\r\n", b"x" * 2_048, 413),
    "chunk-ext-last": (b"5\r\nhello\r\n0;a\nb\r\n\r\n", b"hello", 400),
    # Trailers: the grammar of fields (CVE-2025-53643).
    "trailer-space-colon": (b"0\r\nx : y\r\n\r\n", b"", 400),
    "trailer-no-colon": (b"0\r\nx\r\n\r\n", b"", 400),
    "trailer-empty-name": (b"0\r\n: y\r\n\r\n", b"", 400),
    "trailer-bare-lf": (b"0\r\nx: y\n\r\n", b"", 400),
    "trailer-lf-hides-field": (b"0\r\nx: y\nz: w\r\n\r\n", b"", 400),
    "trailer-cr": (b"0\r\nx: y\rz: w\r\n\r\n", b"", 400),
    "trailer-nul": (b"0\r\nx: y\x00\r\n\r\n", b"", 400),
    "trailer-folded": (b"0\r\nx: y\r\n z\r\n\r\n", b"", 400),
    "trailer-folded-first": (b"0\r\n x: y\r\n\r\n", b"", 400),
    "trailer-request-behind-one-crlf": (b"0\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n", b"", 400),
    "trailer-many": (b"0\r\n" + b"x: y\r\n" * 129 + b"\r\n", b"", 431),
    "trailer-long": (b"0\r\nx: " + b"y" * 66_000 + b"\r\n\r\n", b"", 431),
    "trailer-long-name": (b"0\r\n" + b"x" * 300 + b": y\r\n\r\n", b"", 431),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused(name: str, agree: Agree) -> None:
    body, passed, status = BODIES[name]
    for behind in (b"", BEHIND):
        events = agree(server, CHUNKED + body + behind)
        head, *middle, rejected = events
        assert head == RequestHead(1, b"POST", b"a", b"/", (), False)
        assert middle == ([Data(1, passed, len(passed), False)] if passed else [])
        assert isinstance(rejected, Rejected)
        assert (rejected.stream, rejected.status) == (1, status)
        assert (rejected.limit is not None) == (status in (413, 431))
    connection = server()
    connection.receive(CHUNKED + body + BEHIND)
    assert connection.receive(BEHIND) == []
    assert connection.must_close
    assert not connection.is_idle
    assert b"connection: close" in connection.send_response(status, (), True)
    assert connection.next_message() == []


def head(**fields: object) -> RequestHead:
    values: dict[str, object] = {
        "stream": 1,
        "method": b"GET",
        "authority": b"a",
        "target": b"/",
        "headers": (),
        "end": True,
    }
    return RequestHead(**(values | fields))  # type: ignore[arg-type]


def post(data: bytes, headers: tuple[tuple[bytes, bytes], ...] = (), length: int | None = None) -> list[Event]:
    return [
        RequestHead(1, b"POST", b"a", b"/", headers, False, length),
        Data(1, data, len(data), True),
    ]


# Accepted: name -> (wire, events).
ACCEPTED: dict[str, tuple[bytes, list[Event]]] = {
    "ok-get": (GET + b"\r\n", [head()]),
    "ok-blank-line-first": (b"\r\n" + GET + b"\r\n", [head()]),
    "ok-post": (POST + b"content-length: 5\r\n\r\nhello", post(b"hello", length=5)),
    "ok-get-with-body": (
        GET + b"content-length: 5\r\n\r\nhello",
        [head(end=False, length=5), Data(1, b"hello", 5, True)],
    ),
    "ok-length-zero": (POST + b"content-length: 0\r\n\r\n", [head(method=b"POST", length=0)]),
    "ok-length-leading-zeros": (POST + b"content-length: 005\r\n\r\nhello", post(b"hello", length=5)),
    "ok-length-white-space": (POST + b"content-length: \t 5 \t\r\n\r\nhello", post(b"hello", length=5)),
    "ok-length-no-space": (POST + b"Content-Length:5\r\n\r\nhello", post(b"hello", length=5)),
    "ok-post-without-length": (POST + b"\r\n", [head(method=b"POST")]),
    "ok-body-looks-like-request": (
        POST + b"content-length: %d\r\n\r\n" % len(BEHIND) + BEHIND,
        post(BEHIND, length=len(BEHIND)),
    ),
    "ok-chunked": (CHUNKED + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", post(b"hello world")),
    "ok-chunked-empty": (CHUNKED + b"0\r\n\r\n", post(b"")),
    "ok-chunked-case": (POST + b"Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", post(b"hello")),
    "ok-chunked-white-space": (POST + b"transfer-encoding:  chunked\t\r\n\r\n0\r\n\r\n", post(b"")),
    "ok-chunk-size-upper": (CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", post(b"0123456789")),
    "ok-chunk-size-lower": (CHUNKED + b"a\r\n0123456789\r\n0\r\n\r\n", post(b"0123456789")),
    "ok-chunk-size-zeros": (CHUNKED + b"0000000000000005\r\nhello\r\n000\r\n\r\n", post(b"hello")),
    "ok-chunk-data-crlf": (CHUNKED + b"7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", post(b"0\r\n\r\n\r\n")),
    "ok-chunk-run": (
        CHUNKED + b"".join(b"1\r\n%c\r\n" % (65 + i % 26) for i in range(99)) + b"0\r\n\r\n",
        post(bytes(65 + i % 26 for i in range(99))),
    ),
    "ok-chunk-run-of-chunks": (CHUNKED + b"6\r\n1\r\nx\r\n\r\n" * 20 + b"0\r\n\r\n", post(b"1\r\nx\r\n" * 20)),
    "ok-chunk-run-mixed": (
        CHUNKED
        + b"1\r\na\r\n1\r\nb\r\n3\r\ncde\r\n3\r\nfgh\r\nf\r\n0123456789abcde\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n",
        post(b"abcdefgh0123456789abcde0123456789abcdef"),
    ),
    "ok-chunk-ext": (CHUNKED + b'5;a;b=c;d="e; f"\r\nhello\r\n0;last\r\n\r\n', post(b"hello")),
    "ok-chunk-ext-white-space": (CHUNKED + b"5 ;\ta = b\r\nhello\r\n0\r\n\r\n", post(b"hello")),
    "ok-chunk-ext-quoted-pair": (CHUNKED + b'5;a="b\\"c\\\\"\r\nhello\r\n0\r\n\r\n', post(b"hello")),
    "ok-trailer": (
        CHUNKED + b"5\r\nhello\r\n0\r\nX-Sum: 1 \r\nempty:\r\n\r\n",
        [
            RequestHead(1, b"POST", b"a", b"/", (), False),
            Data(1, b"hello", 5, False),
            Trailers(1, ((b"x-sum", b"1"), (b"empty", b""))),
        ],
    ),
    "ok-trailer-looks-like-request": (  # CVE-2023-40175, Puma
        CHUNKED + b"0\r\nX:POST / HTTP/1.1\r\n\r\n",
        [RequestHead(1, b"POST", b"a", b"/", (), False), Trailers(1, ((b"x", b"POST / HTTP/1.1"),))],
    ),
    "ok-trailer-dropped": (
        CHUNKED
        + b"5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: b\r\nConnection: x\r\n"
        + b"Authorization: Bearer x\r\nX-Forwarded-For: ::1\r\nx_forwarded_host: b\r\nX-Meshproxy-Caller: root\r\n"
        + b"cookie: a\r\nTE: x\r\nupgrade: h2c\r\nx.amz.security.token: x\r\ntrailer: x\r\n\r\n",
        post(b"hello"),
    ),
    "ok-trailer-partly-dropped": (
        CHUNKED + b"0\r\nhost: b\r\nx-sum: 1\r\nauthorization: x\r\n\r\n",
        [RequestHead(1, b"POST", b"a", b"/", (), False), Trailers(1, ((b"x-sum", b"1"),))],
    ),
    "ok-header-names": (GET + b"!#$%&'*+-.^_`|~09AZaz: x\r\n\r\n", [head(headers=((b"!#$%&'*+-.^_`|~09azaz", b"x"),))]),
    "ok-value-empty": (GET + b"x:\r\ny: \r\n\r\n", [head(headers=((b"x", b""), (b"y", b"")))]),
    "ok-value-white-space": (GET + b"x: \t a \t b\t \r\n\r\n", [head(headers=((b"x", b"a \t b"),))]),
    "ok-value-colon": (GET + b"x::y: z\r\n\r\n", [head(headers=((b"x", b":y: z"),))]),
    "ok-obs-text-value": (GET + b"x: \xff\x80\xa0\r\n\r\n", [head(headers=((b"x", b"\xff\x80\xa0"),))]),
    "ok-obs-text-ends": (GET + b"x: \x85admin\xa0\r\n\r\n", [head(headers=((b"x", b"\x85admin\xa0"),))]),
    "ok-same-name-twice": (GET + b"x: 1\r\nX: 2\r\n\r\n", [head(headers=((b"x", b"1"), (b"x", b"2")))]),
    "ok-name-256-bytes": (GET + b"x" * 256 + b": y\r\n\r\n", [head(headers=((b"x" * 256, b"y"),))]),
    "ok-fields-128": (
        GET + b"".join(b"x%d: y\r\n" % i for i in range(127)) + b"\r\n",
        [head(headers=tuple((b"x%d" % i, b"y") for i in range(127)))],
    ),
    "ok-method-any": (b"m-search / HTTP/1.1\r\nhost: a\r\n\r\n", [head(method=b"m-search")]),
    "ok-method-32-bytes": (b"A" * 32 + b" / HTTP/1.1\r\nhost: a\r\n\r\n", [head(method=b"A" * 32)]),
    "ok-target-bytes": (
        b"GET /a-._~!$&'()*+,;=:@%2F//b?c?d/%41&e=;: HTTP/1.1\r\nhost: a\r\n\r\n".replace(b": HTTP", b": HTTP"),
        [head(target=b"/a-._~!$&'()*+,;=:@%2F//b?c?d/%41&e=;:")],
    ),
    "ok-target-8192-bytes": (
        b"GET /" + b"a" * 8191 + b" HTTP/1.1\r\nhost: a\r\n\r\n",
        [head(target=b"/" + b"a" * 8191)],
    ),
    "ok-target-star": (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", [head(method=b"OPTIONS", target=b"*")]),
    "ok-target-absolute": (b"GET http://a/b?c HTTP/1.1\r\nhost: a\r\n\r\n", [head(target=b"/b?c")]),
    "ok-target-absolute-https": (
        b"GET HTTPS://A:8/b HTTP/1.1\r\nhost: a:8\r\n\r\n",
        [head(authority=b"A:8", target=b"/b")],
    ),
    "ok-target-absolute-default-port": (
        b"GET http://a:80/ HTTP/1.1\r\nhost: a\r\n\r\n",
        [head(authority=b"a:80")],
    ),
    "ok-target-absolute-host-has-the-default-port": (b"GET https://a/ HTTP/1.1\r\nhost: A:443\r\n\r\n", [head()]),
    "ok-target-absolute-no-path": (b"GET http://a HTTP/1.1\r\nhost: a\r\n\r\n", [head()]),
    "ok-target-absolute-query-only": (b"GET http://a?b HTTP/1.1\r\nhost: a\r\n\r\n", [head(target=b"/?b")]),
    "ok-target-absolute-options": (
        b"OPTIONS http://a HTTP/1.1\r\nhost: a\r\n\r\n",
        [head(method=b"OPTIONS", target=b"*")],
    ),
    "ok-target-absolute-http10": (b"GET http://a/ HTTP/1.0\r\n\r\n", [head()]),
    "ok-host-port": (b"GET / HTTP/1.1\r\nhost: a.b-c_d~:8501\r\n\r\n", [head(authority=b"a.b-c_d~:8501")]),
    "ok-host-v6": (b"GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", [head(authority=b"[::1]:80")]),
    "ok-host-v4": (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", [head(authority=b"127.0.0.1")]),
    "ok-http10-without-host": (b"GET / HTTP/1.0\r\n\r\n", [head(authority=b"")]),
    "ok-http10-post": (b"POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello", post(b"hello", length=5)),
    "ok-hop-by-hop-dropped": (
        GET
        + b"Connection: keep-alive, X-Hop, TE\r\nx-hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nProxy-Connection: x\r\n"
        b"x-end: 1\r\n\r\n",
        [head(headers=((b"x-end", b"1"),))],
    ),
    "ok-connection-strips-identity": (  # CVE-2024-45410, CVE-2022-31813: dropped like any other, ours come later
        GET + b"connection: x-forwarded-for, AUTHORIZATION\r\nX-Forwarded-For: ::1\r\nauthorization: x\r\n\r\n",
        [head()],
    ),
    "ok-connection-empty-members": (
        GET + b"connection: ,, keep-alive,\r\nx: y\r\n\r\n",
        [head(headers=((b"x", b"y"),))],
    ),
    "ok-connection-empty": (GET + b"connection:\r\n\r\n", [head()]),
    "ok-upgrade-ignored": (  # CVE-2026-73548, CVE-2025-64763: what follows is the next request
        GET + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        [head()],
    ),
    "ok-upgrade-post": (
        POST + b"connection: Upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\n\r\nhello",
        post(b"hello", length=5),
    ),
    "ok-expect": (
        POST + b"Expect: 100-Continue\r\ncontent-length: 5\r\n\r\nhello",
        [
            RequestHead(1, b"POST", b"a", b"/", (), False, 5, expects_continue=True),
            Data(1, b"hello", 5, True),
        ],
    ),
    "ok-expect-without-body": (
        POST + b"expect: 100-continue\r\ncontent-length: 0\r\n\r\n",
        [head(method=b"POST", length=0)],
    ),
    "ok-expect-http10": (
        b"POST / HTTP/1.0\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello",
        post(b"hello", length=5),
    ),
    "ok-head-65536": (
        GET + b"x: " + b"y" * (65_536 - len(GET) - 7 - 66 + 8) + b"\r\n\r\n",
        [head(headers=((b"x", b"y" * (65_536 - len(GET) - 7 - 66 + 8)),))],
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_request_is_accepted(name: str, agree: Agree) -> None:
    wire, expected = ACCEPTED[name]
    assert agree(server, wire) == expected
    assert agree(server, wire + BEHIND) == expected


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_next_request_is_held_until_this_one_is_answered(name: str) -> None:
    wire, _ = ACCEPTED[name]
    connection = server()
    connection.receive(wire + BEHIND[:20])
    assert connection.receive(BEHIND[20:]) == []
    assert connection.next_message() == []
    if b"HTTP/1.0" in wire:
        assert connection.must_close
        assert not connection.held
        return
    assert connection.held
    connection.send_response(200, (), True)
    assert connection.next_message() == [head(stream=2, authority=b"evil", target=b"/behind")]
    assert not connection.held
