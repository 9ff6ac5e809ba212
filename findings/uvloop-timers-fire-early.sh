#!/usr/bin/env bash
# uvloop rounds every delay to the nearest millisecond: timers run before their time, and not in order.
#
# Expected: as in asyncio, call_later never runs a callback before its time by the loop's own clock,
#   and an earlier timer runs before a later one.
# Happens: the delay is rounded half-even to whole milliseconds, down as well as up, and loop.time()
#   also counts whole milliseconds. 0.4 ms becomes 0 and runs in the next iteration. A timer that
#   finds its deadline not reached and arms itself again with the rest spins through the loop,
#   hundreds of times for one deadline. Of two timers for 1.4 ms and 0.6 ms, the first made runs
#   first. handle.when() still names the time that was asked for.
# Since: seen in 0.17.0, 0.19.0, 0.21.0 and 0.23.0.
# Matters: a proxy keeps deadlines in a heap behind one timer and compares with loop.time() when it
#   fires. This is right on asyncio; on uvloop it burns up to a millisecond of CPU per deadline, or
#   ends a request before its deadline if it trusts the timer. Round deadlines up to whole
#   milliseconds.
# Source: uvloop/loop.pyx, Loop.call_later (`round(delay * 1000)`), Loop.time.
set -euo pipefail
version=${1:-0.23.0}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check "uvloop==$version" ||
    { echo "cannot install the packages" >&2; exit 2; }
timeout 60 "$dir/venv/bin/python" - <<'PY'
import asyncio
import sys

import uvloop

DEADLINES = 50


async def wait_until(deadline):
    """The number of callbacks that one deadline takes."""
    loop = asyncio.get_running_loop()
    reached, calls = loop.create_future(), 0

    def fire():
        nonlocal calls
        calls += 1
        left = deadline - loop.time()
        if left > 0:
            loop.call_later(left, fire)
        else:
            reached.set_result(calls)

    loop.call_later(deadline - loop.time(), fire)
    return await reached


async def measure():
    loop = asyncio.get_running_loop()
    calls = [await wait_until(loop.time() + 0.0104) for _ in range(DEADLINES)]
    order, done = [], asyncio.Event()
    for milliseconds in (1.4, 0.6):
        loop.call_later(milliseconds / 1000, order.append, milliseconds)
    loop.call_later(0.05, done.set)
    await done.wait()
    return sum(calls), max(calls), order


print("uvloop", uvloop.__version__)
found = {}
for name, new_loop in (("asyncio", asyncio.new_event_loop), ("uvloop", uvloop.new_event_loop)):
    loop = new_loop()
    found[name] = loop.run_until_complete(measure())
    loop.close()
    total, most, order = found[name]
    print(f"{name:8} {total} callbacks for {DEADLINES} deadlines, at most {most} for one; order {order} ms")
if found["asyncio"][0] > 2 * DEADLINES:
    sys.exit("changed: asyncio's timers fire early too")
if found["uvloop"][0] < 10 * DEADLINES or found["uvloop"][2] != [1.4, 0.6]:
    sys.exit("changed: uvloop's timers no longer fire early or out of order")
PY
