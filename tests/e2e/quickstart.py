"""Follows a page word by word: files are saved, commands are typed, and what they print is what the page shows."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import time
from pathlib import Path

from tests import pages
from tests.e2e.standing import MESHPROXY, ROOT, Standing

KUBECTL = Path(__file__).with_name("kubectl.py")
PATIENCE = 60.0
"""Seconds until a call or a list is as shown: a change of documents may be on its way when it is made."""


class Reader:
    """Has a terminal in a clone of this repository, and a cluster.

    Args:
        folder: the clone, and what is saved there.
    """

    def __init__(self, cluster: Standing, folder: Path) -> None:
        self._folder = folder
        (folder / "deploy").symlink_to(ROOT / "deploy")
        programs = folder / "programs"
        programs.mkdir()
        kubectl = programs / "kubectl"
        kubectl.write_text(f'#!/bin/sh\nexec {shlex.join((sys.executable, str(KUBECTL)))} "$@"\n')
        kubectl.chmod(0o755)
        self._environment = {
            "PATH": f"{programs}:{Path(MESHPROXY).parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "KUBECONFIG": str(cluster.cluster.kubeconfig),
            "E2E_BIN": os.environ["E2E_BIN"],
        }

    async def follow(self, page: str) -> None:
        """Do everything that the page says, and nothing else."""
        for block in pages.blocks(page, "sh", "yaml"):
            if block.language == "sh":
                await self._type(block)
            else:
                assert block.file is not None, f"where is this to be saved?\n{block.text}"
                (self._folder / block.file).write_text(block.text)

    async def _type(self, block: pages.Block) -> None:
        print(f"$ {block.text}", end="", flush=True)
        # Which pod of a loop prints what says nothing: sidecars choose their control planes at random.
        compare = pages.are_lines_as_shown if block.text.startswith("for ") else pages.is_as_shown
        began = time.monotonic()
        deadline = began + (PATIENCE if " exec " in block.text else 0.0)
        while True:
            printed = await self._run(block.text)
            if block.shown is None or compare(block.shown, printed):
                break
            assert time.monotonic() < deadline, f"the page shows\n{block.shown}\nbut it is\n{printed}"
        print(f"{printed}({time.monotonic() - began:.1f} s)\n", flush=True)

    async def _run(self, command: str) -> str:
        """What it prints, if it ends well."""
        # Variables are what a shell keeps from one command to the next.
        kept = shlex.quote(str(self._folder / "variables"))
        process = await asyncio.create_subprocess_exec(
            "bash", "-euo", "pipefail", "-c", f"[ ! -e {kept} ] || . {kept}\n{command}\nexport -p >{kept}",
            cwd=self._folder, env=self._environment,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        printed, _ = await process.communicate()
        assert process.returncode == 0, f"{command}\nended with {process.returncode}:\n{printed.decode()}"
        return printed.decode()
