"""Real child processes; each takes as long as Python takes to start."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from meshproxy.config import child, child_process
from meshproxy.config.child import Outcome, OwnLoad, load_in_child, load_own_in_child, main
from meshproxy.config.child_process import ChildFailed
from meshproxy.config.load import load, load_own
from meshproxy.config.problems import ConfigError

GOOD = """\
apiVersion: meshproxy.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomain: dev.example
  mtls: disabled
  issuers:
  - {name: corp, issuer: "https://login.example", audiences: [models], keys: {file: jwks.json}}
---
apiVersion: meshproxy.dev/v1alpha1
kind: ModelServer
metadata: {name: local}
spec: {endpoints: [{rest: "127.0.0.1:8501", grpc: "[::1]:8500"}]}
---
apiVersion: meshproxy.dev/v1alpha1
kind: Sidecar
metadata: {name: local}
spec: {inbound: {server: local}}
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


def python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, first: str = "", *, is_safe: bool = False
) -> None:
    """Have another program answer in the child's place."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable} -S\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setattr(
        child_process,
        "sys",
        SimpleNamespace(executable=str(program), path=[first], flags=SimpleNamespace(safe_path=is_safe)),
    )


async def message_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        await load_in_child([str(path)])
    (problem,) = caught.value.problems
    return problem.message


async def test_the_child_loads_what_we_would(good: Path) -> None:
    assert await load_in_child([str(good)]) == load([good])


async def test_its_problems_are_ours(good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD.replace("mtls: disabled", "mtls: maybe").replace("{server: local}", "{server: nobody}"))
    with pytest.raises(ConfigError) as theirs:
        await load_in_child([str(bad)])
    with pytest.raises(ConfigError) as ours:
        load([bad])
    assert theirs.value.problems == ours.value.problems
    assert len(ours.value.problems) > 1
    assert theirs.value.problems[0].line > 0


async def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in await message_of(tmp_path / "nowhere.yaml")


async def test_a_child_that_fails_is_a_problem(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python(tmp_path, monkeypatch, "raise SystemExit(7)")
    assert await message_of(good) == "the process that loads the documents exited with status 7"


async def test_a_child_that_cannot_be_started_is_a_problem(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        child_process, "sys", SimpleNamespace(executable=str(tmp_path / "nowhere"), path=[""], flags=sys.flags)
    )
    assert (await message_of(good)).startswith("the process that loads the documents cannot be started: ")


@pytest.mark.parametrize("says", ["", "Warning: something\\n", "\\x80"], ids=["nothing", "words", "another value"])
async def test_a_child_that_says_something_else_is_a_problem(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    python(tmp_path, monkeypatch, f'import sys; sys.stdout.buffer.write("{says}".encode("latin-1"))')
    assert (await message_of(good)).startswith("the result of the process that loads the documents is unreadable: ")


async def test_a_child_that_takes_too_long_is_ended(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path, monkeypatch, "import signal; signal.pause()")
    monkeypatch.setattr(child, "LOAD_SECONDS", 0.1)
    assert await message_of(good) == "loading the documents took longer than 0.1 s"


async def test_whoever_is_cancelled_leaves_no_child_behind(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    python(tmp_path, monkeypatch, f"import os, signal\nos.mkfifo({str(started)!r})\nsignal.pause()")
    started_processes = []
    start = asyncio.create_subprocess_exec

    async def remember(*arguments: str, **options: object) -> asyncio.subprocess.Process:
        process = await start(*arguments, **options)  # type: ignore[arg-type]
        started_processes.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remember)
    loading = asyncio.ensure_future(load_in_child([str(good)]))
    async with asyncio.timeout(60):
        while not (started_processes and started.exists()):
            await asyncio.sleep(0.01)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    (process,) = started_processes
    assert process.returncode == -9


@pytest.mark.parametrize(
    ("first", "is_safe", "options"),
    [
        ("", False, ["-m"]),
        (child_process._FOLDER, False, ["-m"]),
        (child_process._FOLDER, True, ["-P", "-m"]),
        ("/opt/meshproxy/bin", False, ["-P", "-m"]),
    ],
    ids=["-c", "-m", "PYTHONSAFEPATH", "meshproxy"],
)
async def test_the_child_looks_for_modules_where_we_do(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, is_safe: bool, options: list[str]
) -> None:
    """`python -m` would take a module of the working directory for one of ours."""
    seen = tmp_path / "seen"
    code = f"import sys; open({str(seen)!r}, 'w').write(' '.join(sys.argv[1:])); sys.exit(1)"
    python(tmp_path, monkeypatch, code, first, is_safe=is_safe)
    await message_of(good)
    assert seen.read_text().split() == [*options, "meshproxy.config.child", str(good)]


@pytest.mark.parametrize("is_good", [True, False])
def test_the_child_writes_one_value(good: Path, monkeypatch: pytest.MonkeyPatch, is_good: bool) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(child, "sys", SimpleNamespace(stdout=SimpleNamespace(buffer=written)))
    if not is_good:
        good.write_text("kind: Nothing\n")
    main([str(good)])
    outcome = msgspec.msgpack.decode(written.getvalue(), type=Outcome)
    assert (outcome.documents is not None) is is_good
    assert (outcome.problems == ()) is is_good


class Ended:
    """A fork that has ended: with this output, or this failure."""

    def __init__(self, outcome: bytes | ChildFailed) -> None:
        self._outcome = outcome

    def output(self, *, seconds: float) -> bytes:
        if isinstance(self._outcome, ChildFailed):
            raise self._outcome
        return self._outcome


def test_a_fork_gives_what_a_child_gives(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`test_as_a_process` of the sidecar has a real one."""
    monkeypatch.setattr(child, "Fork", lambda task, work: Ended(work()))
    assert OwnLoad([str(good)]).result() == load_own([good]) == asyncio.run(load_own_in_child([str(good)]))
    good.write_text("kind: Nothing\n")
    with pytest.raises(ConfigError) as caught:
        OwnLoad([str(good)]).result()
    with pytest.raises(ConfigError) as ours:
        load_own([good])
    assert caught.value.problems == ours.value.problems


def test_what_cannot_be_read_to_its_end_does_not_outlive_who_waits(tmp_path: Path) -> None:
    pipe = tmp_path / "mesh.yaml"
    os.mkfifo(pipe)
    code = f"from meshproxy.config import child; child.LOAD_SECONDS = 0; child.main([{str(pipe)!r}])"
    ended = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert ended.returncode == -signal.SIGALRM


def test_what_changes_while_a_fork_reads_is_seen(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "Fork", lambda task, work: Ended(work()))
    loading = OwnLoad([str(good)])
    assert not loading.watch.is_stale
    good.write_text(good.read_text() + "\n")
    assert loading.watch.is_stale


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (ChildFailed("the process that loads the documents exited with status 1"), "exited with status 1"),
        (b"", "the result of the process that loads the documents is unreadable: "),
    ],
)
def test_a_fork_that_fails_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, outcome: bytes | ChildFailed, said: str
) -> None:
    monkeypatch.setattr(child, "Fork", lambda task, work: Ended(outcome))
    with pytest.raises(ConfigError) as caught:
        OwnLoad(["a.yaml"]).result()
    (problem,) = caught.value.problems
    assert said in problem.message
