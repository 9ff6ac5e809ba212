"""`meshproxy stat`: what the calls of one running sidecar come to."""

from __future__ import annotations

import sys
import time

import click

from meshproxy.cli import _live, _mesh
from meshproxy.cli.main import INTERRUPTED


@click.command("stat", short_help="Show rates, success and latencies of the calls of a running sidecar.")
@_live.by
@_live.time_window("How long to look.")
@_live.options
@_mesh.control
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for an answer.")
@_live.output
def command(
    by: tuple[str, ...],
    window: float,
    address: str,
    addresses: tuple[str, ...],
    timeout: float,
    output: str | None,
    **filters: tuple[str, ...],
) -> None:
    """Look at the calls of a running sidecar for a while, and show for each model and version: the share of success,
    calls a second, percentiles of the latency, further attempts, and calls that were denied.

    With --control, show what all sidecars of the mesh have reported of the time that has passed: nothing is waited for,
    and up to 1h is known.

    \b
    meshproxy stat -t 1m
    meshproxy stat --control 127.0.0.1:18512 -t 1h --by caller
    meshproxy stat --by caller --model 'resnet*'
    kubectl exec POD -c meshproxy -- meshproxy stat --by model --by route -o json

    SUCCESS is the share, of the calls that were not denied, without an HTTP status 5xx, a gRPC status that is an error
    of the server, or a response that broke off. Latencies are those of calls that the model server answered, from the
    request's head to the last byte; a percentile is at most 10 % away from the exact one. Ctrl-C ends it early, with
    what was seen so far.

    Filters may be repeated: one value of each has to match.

    Exit status: 0, 1 if no sidecar or control plane answers or it has ended, 130 after Ctrl-C.
    """
    if addresses:
        _mesh.show(addresses, timeout, window, by, filters, _live.chosen(output))
        return
    from meshproxy.cli._call_rows import Window

    seen = Window()
    was_interrupted = False
    fields = [("by", name) for name in by] + _live.filter_fields(filters)
    with _live.opened(address, "/stat", fields, timeout) as lines:
        try:
            # Lines come every second, or a little later; not from a sidecar that hangs.
            _live.collect(lines, seen, time.monotonic() + window + timeout, enough=window)
        except KeyboardInterrupt:
            was_interrupted = True
    _live.show(seen, by, _live.chosen(output), f"no calls ended in {seen.seconds:.3g} s")
    if was_interrupted:
        sys.exit(INTERRUPTED)
