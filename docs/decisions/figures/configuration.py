"""The figures of 0006: documents parsed in the sidecar, or in a child that is gone afterwards.

`python docs/decisions/figures/configuration.py`: how much larger a process gets (`VmRSS`) that has loaded what the
sidecar loads, when it reads documents, once and ten times; and how long its event loop stood still meanwhile.
"""
# ruff: noqa: S603, T201

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

RULES = (10, 1_000, 10_000)
RELOADS = 10


def documents(rules: int) -> str:
    """A mesh with as many rules, fifty in a role, as people write them."""

    def document(kind: str, name: str, spec: str) -> str:
        return f"apiVersion: meshproxy.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:{spec}\n"

    parts = [
        document("MeshConfig", "mesh", " {trustDomain: a.example, mtls: disabled}"),
        document("ModelServer", "own", " {endpoints: [{rest: '127.0.0.1:8501'}]}"),
        document("Sidecar", "own", " {inbound: {server: own}}"),
    ]
    for start in range(0, rules, 50):
        written = [
            f"\n  - models: [model-{number % 1_000}]\n    verbs: [predict, metadata]\n    versions: [{number}]"
            for number in range(start, min(start + 50, rules))
        ]
        parts.append(document("ModelRole", f"role-{start}", "\n  rules:" + "".join(written)))
        subject = f"{{workload: {{namespace: team-{start}}}}}"
        binding = f" {{role: role-{start}, subjects: [{subject}]}}"
        parts.append(document("ModelRoleBinding", f"binding-{start}", binding))
    return "---\n".join(parts)


def resident() -> float:
    """MB."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def longest_pause(done: asyncio.Event) -> float:
    """The longest time, in milliseconds, for which the loop did not turn; 1 is what this sleeps."""
    longest = 0.0
    last = time.perf_counter()
    while not done.is_set():
        await asyncio.sleep(0.001)
        now = time.perf_counter()
        longest = max(longest, now - last)
        last = now
    return longest * 1e3


async def read_documents(how: str, path: str) -> None:
    """Read the documents as `how` says, and print what that took."""
    from meshproxy.config.child import load_in_child
    from meshproxy.policy.compile import compile_policy
    from meshproxy.sidecar import app  # noqa: F401

    before = resident()
    done = asyncio.Event()
    pause = asyncio.get_running_loop().create_task(longest_pause(done))
    await asyncio.sleep(0.01)
    grown = []
    took = float("inf")
    kept = None
    for turn in range(RELOADS):
        begin = time.perf_counter()
        if how == "child":
            read = await load_in_child([path])
        else:
            from meshproxy.config.load import load

            read = load([path])
        took = min(took, time.perf_counter() - begin)
        await asyncio.sleep(0)
        # A sidecar keeps these either way.
        kept = read, compile_policy(read.roles, read.bindings, read.mesh.spec.trust_domain)
        await asyncio.sleep(0)
        if turn in (0, RELOADS - 1):
            done.set()
            await pause
            grown.append(resident() - before)
    assert kept is not None
    print(f"{grown[0]:.1f} {grown[1]:.1f} {took:.2f} {await pause:.0f}")


CHILD = """
"$0" -m meshproxy.config.child "$1" > /dev/null
exec "$0" -c 'import resource; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)'
"""
"""Behind a shell, since a process inherits the peak of the one that starts it."""


def run(*arguments: str) -> list[str]:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()


def main() -> None:
    row = "{:>7}  {:9}  {:>9}  {:>13}  {:>13}  {:>18}"
    print(row.format("rules", "parsed in", "MB, once", "MB, ten times", "s, at best", "longest pause, ms"))
    with tempfile.TemporaryDirectory() as folder:
        for rules in RULES:
            path = Path(folder) / f"{rules}.yaml"
            path.write_text(documents(rules))
            for how in ("sidecar", "child"):
                print(row.format(f"{rules:,}", how, *run(sys.executable, __file__, how, str(path))), flush=True)
            peak = int(run("sh", "-c", CHILD, sys.executable, str(path))[0]) / 1024
            print(f"{'':18}the child itself: {peak:.0f} MB while it runs", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        uvloop.run(read_documents(*sys.argv[1:]))
    else:
        main()
