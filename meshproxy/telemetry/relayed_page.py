"""The model server's metrics page, appended to the sidecar's own: checked line by line, and then passed on as it is.

The page comes from a process that is not ours, and callers choose label values in it, of which TensorFlow Serving does
not escape line feeds. A forged line must not pass for one of the sidecar's, and a malformed one must not cost the
scraper the whole page: what is not a plain page of the text format 0.0.4 is refused as a whole.

The names of TensorFlow Serving begin with a colon, and none of them may begin as ours do. OpenMetrics wants `_total` in
the name of a counter's samples, which TensorFlow Serving does not have: there such a family is of type `unknown`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from meshproxy.inference.tfserving_metrics import MOST_LINES, PageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOST_LINE_BYTES = 4_096
PIECE_LINES = 200
OURS = (b"meshproxy_", b"process_")
"""Names of the sidecar's metrics begin so."""

_NAME = rb"[a-zA-Z_:][a-zA-Z0-9_:]*+"
_LABEL = rb'(?!__)[a-zA-Z_][a-zA-Z0-9_]*+="(?:[^"\\\x00-\x1f]|\\[\\"n])*+"'
_TYPE = re.compile(rb"# TYPE (%b) (counter|gauge|histogram|untyped)" % _NAME)
_UNKNOWN = re.compile(rb"^(# TYPE %b )(?:counter|untyped)$" % _NAME, re.MULTILINE)
_SAMPLE = re.compile(
    rb"(%b)(?:\{(%b(?:,%b)*+)?\})? -?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?" % (_NAME, _LABEL, _LABEL)
)
_LABEL_NAME = re.compile(rb'([a-zA-Z0-9_]++)="(?:[^"\\]|\\.)*+"')
_HELP = re.compile(rb"# HELP (%b) [^\\\x00-\x1f]*" % _NAME)
_SUFFIXES = {b"histogram": (b"_bucket", b"_sum", b"_count")}


class RelayedPage:
    """A page that is read a few lines at a time, and can be written when all of it was good."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._lines = 0
        self._families: set[bytes] = set()
        self._names: tuple[bytes, ...] = ()
        """Of samples of the family that is being read."""

    def feed(self, lines: Iterable[bytes]) -> None:
        """Read some lines, without their line feeds; empty ones are left out.

        Raises:
            PageError: one of them is not of the text format, or has a name of ours.
        """
        text: list[bytes] = []
        for line in lines:
            if not line:
                continue
            self._lines += 1
            if self._lines > MOST_LINES:
                raise PageError(f"the page has more than {MOST_LINES} lines")
            if len(line) > MOST_LINE_BYTES:
                raise PageError(f"line {self._lines} is longer than {MOST_LINE_BYTES} bytes")
            if not line.isascii():
                try:
                    line.decode()
                except UnicodeDecodeError:
                    raise PageError(f"line {self._lines} is not UTF-8") from None
            self._check(line)
            text.append(line)
        if text:
            self._pieces.append(b"\n".join(text) + b"\n")

    def _check(self, line: bytes) -> None:
        """Raises PageError."""
        match = _SAMPLE.fullmatch(line)
        if match is not None:
            if match[1] not in self._names:
                raise PageError(f"line {self._lines} is of another metric than the TYPE before it")
            if match[2]:
                names = _LABEL_NAME.findall(match[2])
                if len({*names}) != len(names):
                    raise PageError(f"line {self._lines} has a label twice")
            return
        match = _TYPE.fullmatch(line)
        if match is not None:
            self._begin(*match.groups())
            return
        match = _HELP.fullmatch(line)
        if match is None:
            raise PageError(f"line {self._lines} is malformed")
        if match[1].startswith(OURS):
            raise PageError(f"line {self._lines} has the name of a metric of the sidecar")

    def _begin(self, name: bytes, kind: bytes) -> None:
        """A family begins. Raises PageError."""
        if name.startswith(OURS):
            raise PageError(f"line {self._lines} has the name of a metric of the sidecar")
        if name in self._families:
            raise PageError(f"line {self._lines} begins a metric that was there before")
        self._families.add(name)
        self._names = tuple(name + suffix for suffix in _SUFFIXES.get(kind, (b"",)))

    def render(self, *, openmetrics: bool) -> Iterator[bytes]:
        """The page in pieces, one for each `feed`."""
        for piece in self._pieces:
            yield _UNKNOWN.sub(rb"\1unknown", piece) if openmetrics else piece
