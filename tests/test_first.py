"""What a process settles first. In processes of their own: standard files and signals are the whole process's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from meshproxy import first

SETTLED = """
import os, socket, sys
from meshproxy.first import settle
settle()
settle()
there = socket.socket()
print(sys.stdout is not None and sys.stderr is not None)
print("to nobody", file=sys.stderr)
names = [os.readlink(f"/proc/self/fd/{number}") for number in range(3)]
found = there.fileno() > 2, [name == os.devnull for name in names], os.get_inheritable(0)
os.write(int(sys.argv[1]), repr(found).encode())
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1), (2,), (0, 1, 2)])
def test_what_is_closed_is_the_null_device(closed: tuple[int, ...]) -> None:
    ours, theirs = os.pipe()
    closing = " ".join(f"{number}>&-" for number in closed)
    command = ["sh", "-c", f'exec "$@" {closing}', "sh", sys.executable, "-c", SETTLED, str(theirs)]
    subprocess.run(command, pass_fds=[theirs], stdin=-1, stdout=-1, stderr=-1, check=True)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        assert pipe.read() == repr((True, [number in closed for number in range(3)], True))


def test_a_signal_that_was_blocked_before_is_heard() -> None:
    code = "import signal; from meshproxy.first import settle; settle(); signal.raise_signal(signal.SIGTERM)"
    blocked = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {code}"
    assert subprocess.run([sys.executable, "-c", blocked], check=False).returncode == -signal.SIGTERM


def test_an_interrupt_ends_a_sidecar_that_starts_without_a_trace() -> None:
    code = (
        "import signal; from meshproxy.first import settle\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # as on a terminal, however the tests were started\n"
        "settle(reloads=True); signal.raise_signal(signal.SIGINT)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, b"")


def test_commands_are_interrupted_as_python_is() -> None:
    before = signal.getsignal(signal.SIGINT)
    first.settle()
    assert signal.getsignal(signal.SIGINT) is before


def test_the_first_process_of_a_container_ends_when_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        first.settle()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # it has one: nothing else ends by exit status
        monkeypatch.setattr(os, "getpid", lambda: 1)
        first.settle()
        signal.raise_signal(signal.SIGTERM)
        assert ended == [143]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        first.settle()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_reload_before_there_is_anything_to_reload_is_ignored(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)}
    try:
        first.settle()
        assert signal.getsignal(number) is before[number]
        first.settle(reloads=True)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
