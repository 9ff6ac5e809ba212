"""h2spec: every case of the suite that HTTP/2 servers are measured by, strict ones included."""

from __future__ import annotations

import asyncio
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import LocalSidecar
from tests.conformance.conftest import LANES

pytestmark = [pytest.mark.asyncio(loop_scope="session"), LANES]

H2SPEC = Path(__file__).parents[2] / ".cache" / "bin" / "h2spec"
CASES = 146
LONG = "60000"
"""Characters of its long fields: one fits in a head, five of them are a HEADERS frame larger than `frameBytes`."""


async def run_h2spec(running: LocalSidecar, report: Path, *options: str) -> dict[str, str]:
    """Runs all cases; the problem of each by its title, empty if it passed."""
    process = await asyncio.create_subprocess_exec(
        *(str(H2SPEC), "-S", "-p", str(running.port), "-P", "/v1/models/half_plus_two", "-j", str(report)),
        *("--max-header-length", LONG, *options),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert report.exists(), output.decode()
    outcomes = {}
    for suite in ET.parse(report).getroot().iter("testsuite"):
        for number, case in enumerate(suite.iter("testcase"), 1):
            problem = case.find("failure")
            problem = case.find("error") if problem is None else problem
            skipped = case.find("skipped")
            title = f"{case.get('package')} {number}: {case.get('classname')}"
            if problem is not None:
                outcomes[title] = "".join(problem.itertext()) or "failed"
            else:
                outcomes[title] = "" if skipped is None else "skipped"
    return outcomes


async def test_every_case_in_plain_text(plain: LocalSidecar, tmp_path: Path) -> None:
    outcomes = await run_h2spec(plain, tmp_path / "report.xml")
    assert {title: problem for title, problem in outcomes.items() if problem} == {}
    assert len(outcomes) == CASES


async def test_every_case_over_tls(permissive: LocalSidecar, tmp_path: Path) -> None:
    outcomes = await run_h2spec(permissive, tmp_path / "report.xml", "-t", "-k")
    assert {title: problem for title, problem in outcomes.items() if problem} == {}
    assert len(outcomes) == CASES
