"""When requests are to start: an open loop does not wait for answers, so that a stall shows in every request it delays.

That is the correction for coordinated omission: the schedule is fixed beforehand and a latency is counted from the
intended start even if the request started later (G. Tene, "How NOT to Measure Latency").
"""

from __future__ import annotations

import ctypes
import os
import random
from array import array

TFD_NONBLOCK = os.O_NONBLOCK
TFD_TIMER_ABSTIME = 1
CLOCK_MONOTONIC = 1


def uniform(rate: float, duration: float) -> array[float]:
    """Starts at equal distances, in seconds from the beginning. `rate` is per second."""
    return array("d", (number / rate for number in range(int(rate * duration))))


def poisson(rate: float, duration: float, seed: int) -> array[float]:
    """Starts of many independent callers, in seconds from the beginning: distances are exponential."""
    draw = random.Random(seed)
    starts = array("d")
    at = draw.expovariate(rate)
    while at < duration:
        starts.append(at)
        at += draw.expovariate(rate)
    return starts


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Timer:
    """A Linux timer that a loop can wait for as a file: exact to some microseconds, where uvloop's and asyncio's own
    timers round to a millisecond, which is more than the latencies to be measured (timerfd_create(2)).

    Raises:
        OSError: the system has no such timers.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        if not hasattr(self._libc, "timerfd_create"):
            raise OSError("this system has no timerfd")
        self.file = int(self._libc.timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK))
        if self.file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = _Itimerspec()
        self._pointer = ctypes.byref(self._spec)

    def set(self, at: float) -> None:
        """The file becomes readable at this moment of `time.monotonic`, or at once if it has passed."""
        value = self._spec.value
        value.seconds = int(at)
        value.nanoseconds = int((at - int(at)) * 1e9)
        self._libc.timerfd_settime(self.file, TFD_TIMER_ABSTIME, self._pointer, None)

    def clear(self) -> None:
        try:
            os.read(self.file, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        os.close(self.file)
