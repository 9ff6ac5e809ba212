"""The access log: one line for every completed exchange, in one of three formats, unless a filter asks for none.

It never contains the `authorization` field, the query (both carry tokens), or bodies. docs/access-log.md lists the
fields of each format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshproxy.config.telemetry import AccessLogLines

if TYPE_CHECKING:
    from meshproxy.config.telemetry import LogFormat
    from meshproxy.proxy.exchange import Exchange
    from meshproxy.telemetry.line_writer import LineWriter
    from meshproxy.telemetry.log_encoding import UtcClock
    from meshproxy.telemetry.log_filter import LogFilter
    from meshproxy.telemetry.log_lines import Lines
    from meshproxy.telemetry.observer import Sink

DEFAULT = AccessLogLines()


class AccessLog:
    """Writes completed exchanges as lines.

    Args:
        writer: takes the lines; flushing and closing it is up to the caller.
        clock: converts the times of an exchange to wall clock times.
        settings: format and filter, until `use` replaces them.

    Attributes:
        format: the line of an exchange, with its line feed.
        filtered: the number of exchanges that have no line.
    """

    def __init__(self, writer: LineWriter, clock: UtcClock, settings: AccessLogLines = DEFAULT) -> None:
        self._writer = writer
        self._clock = clock
        self.filtered = 0
        self._settings = settings
        self._filter = make_filter(settings)
        self.format = make_lines(settings.format, clock)

    def use(self, settings: AccessLogLines) -> None:
        """Another format and filter, from the next line on."""
        if settings != self._settings:
            self._settings = settings
            self._filter = make_filter(settings)
            self.format = make_lines(settings.format, self._clock)

    def __call__(self, exchange: Exchange) -> None:
        """Write the line of one exchange."""
        if self._filter is None or self._filter(exchange):
            self._writer.write(self.format(exchange))
        else:
            self.filtered += 1

    def repeat(self, exchange: Exchange) -> Sink:
        """A sink for exchanges that repeat this one (`Observer.repeat`)."""
        lines = self.format
        format_line = lines.repeat(exchange)

        def observe(exchange: Exchange) -> None:
            if self._filter is None and self.format is lines:
                self._writer.write(format_line(exchange))
            else:
                self(exchange)

        return observe


# What is not in use is not loaded.


def make_lines(name: LogFormat, clock: UtcClock) -> Lines:
    """What writes lines in the format of this name."""
    if name == "text":
        from meshproxy.telemetry.text_lines import TextLines

        return TextLines(clock)
    if name == "ecs":
        from meshproxy.telemetry.ecs_lines import EcsLines

        return EcsLines(clock)
    from meshproxy.telemetry.json_lines import JsonLines

    return JsonLines(clock)


def make_filter(settings: AccessLogLines) -> LogFilter | None:
    """None: every request has a line."""
    if settings.ratio == 1.0 and not settings.models:
        return None
    from meshproxy.telemetry.log_filter import LogFilter

    return LogFilter(settings)
