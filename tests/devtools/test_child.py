from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.devtools.child import Child, ChildFailed, free_port, interrupted_by_all

READY = 'print(\'{"event": "listening", "at": "127.0.0.1:1"}\', flush=True)'
OBEDIENT = f"import signal; print('first', flush=True); {READY}; signal.sigwait([signal.SIGTERM]); print('last words')"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {READY}; signal.pause()"


async def start(code: str, directory: Path, timeout: float = 20.0) -> Child:
    return await Child.start("a child", sys.executable, "-c", code, directory=directory, timeout=timeout)


async def test_it_is_awaited_until_it_listens_and_heard_to_its_end(tmp_path: Path) -> None:
    # Blocked before the process is ready, so that the signal finds it waiting.
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {OBEDIENT}"
    child = await start(code, tmp_path)
    assert child.listening["at"] == "127.0.0.1:1"
    assert child.returncode is None
    assert await child.stop() == 0
    child.check_ended_well()
    assert next(iter(child.output)) == "first"
    assert list(child.output)[-1] == "last words"
    child.signal(signal.SIGHUP)  # nobody there: nothing happens


@pytest.fixture
def handlers() -> Iterator[None]:
    """Those of a command on a terminal, however the tests were started."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("is_background", [False, True])
def test_what_ends_a_command_is_an_interrupt(number: signal.Signals, is_background: bool) -> None:
    if is_background:  # of a script
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupted_by_all()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(number)


@pytest.mark.usefixtures("handlers")
def test_a_command_may_outlive_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    interrupted_by_all()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


async def test_a_process_that_ends_says_why(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"a child ended with 3; its last output:\nno luck"):
        await start("print('no luck'); raise SystemExit(3)", tmp_path)


async def test_a_process_that_stays_silent_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ChildFailed, match=r"did not listen within 0.3 s"):
        await start("import signal; signal.pause()", tmp_path, timeout=0.3)


async def test_a_process_that_does_not_want_to_stop_is_made_to(tmp_path: Path) -> None:
    child = await start(STUBBORN, tmp_path)
    assert await child.stop(timeout=0.2) == -signal.SIGKILL
    with pytest.raises(ChildFailed, match="a child ended with -9"):
        child.check_ended_well()


async def test_a_process_that_is_killed_on_purpose_ended_well(tmp_path: Path) -> None:
    child = await start(STUBBORN, tmp_path)
    await child.kill()
    assert child.returncode == -signal.SIGKILL
    child.check_ended_well()


async def test_output_that_is_not_ours_is_kept_and_not_understood(tmp_path: Path) -> None:
    code = f"print('{{not json'); print('[1]'); print('{{}}'); {READY}"
    child = await start(code, tmp_path)
    assert await child.wait() == 0
    assert list(child.output)[:3] == ["{not json", "[1]", "{}"]


async def test_further_lines_are_passed_on(tmp_path: Path) -> None:
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); {OBEDIENT}"
    child = await start(code, tmp_path)
    lines: list[str] = []
    child.on_line = lines.append
    assert await child.stop() == 0
    assert lines == ["last words"]


def test_a_free_port_can_be_taken() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
