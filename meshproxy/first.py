"""What every process of ours settles before anything else: its standard files, and signals that would be lost."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType


def settle(*, reloads: bool = False) -> None:
    """Open what is closed, and let the first process of a container be ended.

    This comes before imports that take a while.

    Args:
        reloads: SIGHUP is going to mean that documents are read again, and SIGUSR1 that log files are reopened, as
            for Envoy and nginx. Until there are handlers they would end the process, and there is nothing to read
            again yet. SIGUSR2 has no meaning, and would end it forever. Ctrl-C ends it as SIGTERM does, where Python
            would show what it was importing.

    A standard file that was closed (`<&-`) is the null device: the next socket would have its number, so that a log
    would be written to a client, and libuv aborts when it closes such a number. The first process of a PID namespace
    has no default action for SIGTERM: the kernel drops it until there is a handler (pid_namespaces(7)), and a pod that
    is deleted while it starts would be waited for until it is killed. Signals that whoever started the process has
    blocked would stay so: it could not be stopped, and would not hear of the end of its children.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it is `number`: the lowest that is free
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    end = _end if os.getpid() == 1 else signal.SIG_DFL
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end)
    if reloads:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)
