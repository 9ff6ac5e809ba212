"""The demo, third part: an application and a replica whose sidecars have their identities and documents from a control
plane. A role is taken away, which the audit trails tell; a certificate rotates under load, a version that fails goes
back by itself, and the control plane is killed, whose trail goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from pathlib import Path

from meshproxy.audit.lines import Kind, read_line
from meshproxy.audit.sentences import sentence
from meshproxy.audit.verify import Verifier
from meshproxy.devtools.child import POLICY
from meshproxy.devtools.clients import RestClient
from meshproxy.devtools.demo_outbound import NAME, REQUEST, Scene, problem_of
from meshproxy.devtools.load.generator import Run
from meshproxy.devtools.load.predict import predict_over_grpc, predict_over_rest
from meshproxy.devtools.managed_mesh import LIFETIME, ManagedMesh

RATE = 100.0
"""Calls a second, over each of REST and gRPC."""
STEP = 0.5
"""Seconds of load at a time."""
TRAIL_PATIENCE = 5.0
"""Seconds within which what has happened must be in the audit trails."""
MOST_LOST = 40
"""Calls that a version which fails may cost: seven in a row, and those that are under way."""
MOVED, OUT = "rollout weight", "rollout: back to the stable version"
"""What the sidecar that chooses says."""
ROLLOUT = """\
apiVersion: meshproxy.dev/v1alpha1
kind: ModelRollout
metadata: {name: half-plus-two}
spec:
  model: half_plus_two
  stable: {version: 1}
  candidate: {version: 9}
  analysis: {stepWeights: [10]}
"""
NO = 3
"""The exit status of `policy explain` if the call is denied."""
CALM_LIFETIME = 3_600.0
"""Of the certificates of the control plane that is started again, in seconds."""


async def run(mesh: ManagedMesh) -> AsyncIterator[Scene]:
    """Plays the scenes, one after another."""
    yield await role(mesh)
    yield await explained(mesh)
    yield await trail(mesh)
    yield await rotation(mesh)
    yield await rollback(mesh)
    yield await away(mesh)


async def role(mesh: ManagedMesh) -> Scene:
    """The binding of the application is taken out of a file and put back; each time, one call follows."""
    statuses, seconds = [], []
    async with RestClient(mesh.application.outbound, None) as client:

        async def call() -> str:
            path = "/v1/models/half_plus_two:predict"
            return (await client.call("POST", path, {"instances": [1.0]}, {"host": NAME})).status

        statuses.append(await call())
        for binds in (False, True):
            begun = time.monotonic()
            await mesh.edit_policy(binds=binds)
            seconds.append(time.monotonic() - begun)
            statuses.append(await call())
    expected = ["200", "403", "200"]
    problem = "" if statuses == expected else f"answers {', '.join(statuses)}, expected {', '.join(expected)}"
    seen = f"answers {', '.join(statuses)}; in sync in {max(seconds) * 1e3:.0f} ms"
    failed = sum(each != wanted for each, wanted in zip(statuses, expected, strict=True))
    return Scene("a role is taken away, and given back", len(statuses), failed, seen, problem)


async def explained(mesh: ManagedMesh) -> Scene:
    """Why the call is refused without the binding, as `meshproxy policy explain` says."""
    await mesh.edit_policy(binds=False)
    asked = [f"--config={mesh.policy}", f"--trust-domain={mesh.local.ca.trust_domain}", f"--as={mesh.caller}"]
    process = await asyncio.create_subprocess_exec(
        *POLICY, "explain", *asked, "--model=half_plus_two", "--verb=predict", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    await mesh.edit_policy(binds=True)
    told = [" ".join(line.split()) for line in output.decode().splitlines() if line][:2]
    is_right = process.returncode == NO and told[1:] == ["by default-deny"]
    problem = "" if is_right else f"policy explain ended with {process.returncode}: {'; '.join(told)}"
    return Scene("policy explain says why it was refused", 0, 0, "; ".join(told), problem)


async def trail(mesh: ManagedMesh) -> Scene:
    """What the audit trails say of that, and whether they are as they were written."""
    what = "the audit trails are read and verified"
    wanted = (Kind.DOCUMENT_DELETED, Kind.DOCUMENT_CREATED, Kind.DENIED)
    for _ in range(int(TRAIL_PATIENCE / 0.05)):
        records = [read_line(line) for path in mesh.trails for line in whole_lines(path)]
        told = {record.kind: sentence(record).partition(": ")[2] for record in records}
        if told.keys() >= {*wanted}:
            break
        await asyncio.sleep(0.05)
    else:
        return Scene(what, 0, 0, "", f"no line tells of {', '.join(kind.value for kind in wanted if kind not in told)}")
    verifier = Verifier([mesh.audit_key])
    for path in mesh.trails:
        verifier.read(path.name, whole_lines(path))
    verifier.finish()
    seen = f"{told[Kind.DOCUMENT_DELETED]} {told[Kind.DENIED]} {len(records)} lines are as they were written"
    return Scene(what, 0, 0, seen, str(verifier.problems[0]) if verifier.problems else "")


def whole_lines(path: Path) -> list[bytes]:
    """Of a file that is being written."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


async def rotation(mesh: ManagedMesh, patience: float = LIFETIME) -> Scene:
    """Load until both certificates have been renewed."""
    before, begun = mesh.rotations(), time.monotonic()
    runs: list[Run] = []
    while mesh.rotations() == before and time.monotonic() - begun < patience:
        runs += await _load(mesh, STEP)
    runs += await _load(mesh, STEP)
    problem = _problem_of(runs)
    if not problem and mesh.rotations() == before:
        problem = f"not both certificates were renewed within {patience:g} s"
    seen = f"both rotated within {time.monotonic() - begun:.1f} s; longest {_longest(runs):.0f} ms"
    return _scene(f"certificates that live for {LIFETIME:g} s rotate", runs, seen, problem)


async def rollback(mesh: ManagedMesh, patience: float = 20.0) -> Scene:
    """A version that the model server does not have gets a tenth of the calls, under load."""
    await mesh.write("rollout.yaml", ROLLOUT)
    weights = mesh.replica.said
    with suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while True:
                if weights(MOVED):
                    break
                await asyncio.sleep(0.05)
    runs = await _load(mesh, 3 * STEP)
    failed = sum(run.failed for run in runs)
    calls = sum(run.done for run in runs) + failed
    after = await _load(mesh, STEP)
    is_out = bool(weights(OUT))
    await mesh.write("rollout.yaml", "")
    problem = _problem_of(after)
    if not is_out or not failed or failed > MOST_LOST:
        problem = (
            problem
            or f"{failed} of {calls} calls failed, and the sidecar {'took' if is_out else 'did not take'} it out"
        )
    seen = f"the sidecar took it out after {failed} of {calls} calls had failed; 0 of the next {_done(after)}"
    return Scene("a version that fails goes back by itself", calls + _done(after), failed, seen, problem)


def _done(runs: list[Run]) -> int:
    return sum(run.done for run in runs)


async def away(mesh: ManagedMesh, seconds: float = 1.5) -> Scene:
    """kill -9 of the control plane under load; then it is started again."""

    async def strike() -> None:
        await asyncio.sleep(seconds / 3)
        await mesh.control.kill()

    runs = await _load(mesh, seconds, strike())
    begun = time.monotonic()
    await mesh.restart_control(CALM_LIFETIME)
    await mesh.in_sync()
    back = time.monotonic() - begun
    seen = f"longest {_longest(runs):.0f} ms; it is back, and has all in sync after {back:.1f} s"
    return _scene("kill -9 of the control plane", runs, seen, _problem_of(runs))


async def _load(mesh: ManagedMesh, seconds: float, meanwhile: Awaitable[None] | None = None) -> list[Run]:
    address = mesh.application.outbound
    rest, grpc, *_ = await asyncio.gather(
        predict_over_rest(address, RATE, seconds, name=NAME),
        predict_over_grpc(address, RATE, seconds, REQUEST, name=NAME),
        *([meanwhile] if meanwhile is not None else []),
    )
    assert isinstance(rest, Run)
    assert isinstance(grpc, Run)
    return [rest, grpc]


def _scene(what: str, runs: list[Run], seen: str, problem: str) -> Scene:
    failed = sum(run.failed for run in runs)
    return Scene(what, sum(run.done for run in runs) + failed, failed, seen, problem)


def _longest(runs: list[Run]) -> float:
    """Milliseconds."""
    return 1e3 * max((latency for run in runs for latency in run.latencies), default=0.0)


def _problem_of(runs: list[Run]) -> str:
    """The first fault; empty if there is none."""
    return next((problem for problem in map(problem_of, runs) if problem), "")
