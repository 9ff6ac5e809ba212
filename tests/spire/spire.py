"""A SPIRE server with its agent, as processes: one trust domain, whose identities live for a minute."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshproxy.devtools.child import free_port
from tests.processes.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILT = Path(os.environ.get("SPIRE_BIN", ""))
"""Where `make spire` builds spire-server, spire-agent and peer."""

SERVER = """
server {{
    bind_address = "127.0.0.1"
    bind_port = {port}
    socket_path = "{folder}/server.sock"
    trust_domain = "{domain}"
    data_dir = "{folder}/server"
    log_level = "WARN"
    default_x509_svid_ttl = "1m"
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{folder}/server/datastore.sqlite3"
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
}}
"""

AGENT = """
agent {{
    data_dir = "{folder}/agent"
    log_level = "WARN"
    server_address = "127.0.0.1"
    server_port = {port}
    socket_path = "{folder}/agent.sock"
    trust_bundle_path = "{folder}/bootstrap.pem"
    trust_domain = "{domain}"
    join_token = "{token}"
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
}}
"""


@dataclass
class Spire:
    """One trust domain. `folder` is short: the path of a socket has 107 characters at most."""

    domain: str
    folder: Path
    _processes: list[asyncio.subprocess.Process]

    @classmethod
    async def start(cls, domain: str, folder: Path) -> Spire:
        """Raises TimeoutError: it does not come up; its log is in the folder."""
        it = cls(domain, folder, [])
        for name in ("server", "agent"):
            (folder / name).mkdir(parents=True)
        port = free_port()
        try:
            (folder / "server.conf").write_text(SERVER.format(port=port, folder=folder, domain=domain))
            await it._run("spire-server", "server.conf")
            await until(lambda: it._ask("healthcheck"))
            (folder / "bootstrap.pem").write_text(it.command("bundle", "show"))
            made = it.command("token", "generate", "-spiffeID", it.id("agent"), "-output", "json")
            token = json.loads(made)["value"]
            (folder / "agent.conf").write_text(AGENT.format(port=port, folder=folder, domain=domain, token=token))
            await it._run("spire-agent", "agent.conf")
            await until((folder / "agent.sock").exists)
        except BaseException:
            await it.stop()
            raise
        return it

    async def _run(self, program: str, configuration: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            command = (str(BUILT / program), "run", "-config", configuration)
            self._processes.append(
                await asyncio.create_subprocess_exec(*command, cwd=self.folder, stdout=log, stderr=log)
            )

    async def stop(self) -> None:
        for process in reversed(self._processes):
            if process.returncode is None:
                process.terminate()
            await process.wait()

    @property
    def socket(self) -> str:
        """Of the Workload API."""
        return str(self.folder / "agent.sock")

    def id(self, path: str) -> str:
        return f"spiffe://{self.domain}/{path}"

    def _ask(self, *arguments: str) -> bool:
        return self._ended(*arguments).returncode == 0

    def _ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        verbs = 2 if len(arguments) > 1 else 1
        socket = ("-socketPath", str(self.folder / "server.sock"))
        command = (str(BUILT / "spire-server"), *arguments[:verbs], *socket, *arguments[verbs:])
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def command(self, *arguments: str) -> str:
        """What a command of spire-server writes, which must go well."""
        ended = self._ended(*arguments)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def register(self, path: str, program: Path, federated: Sequence[Spire] = ()) -> str:
        """Let whoever runs this program have an identity: the SPIFFE id."""
        options = [option for other in federated for option in ("-federatesWith", f"spiffe://{other.domain}")]
        selector = f"unix:path:{program.resolve()}"
        parent = self.id("agent")
        self.command(
            "entry", "create", "-parentID", parent, "-spiffeID", self.id(path), "-selector", selector, *options
        )
        return self.id(path)

    def federate(self, other: Spire) -> None:
        """Trust another trust domain by its bundle of now."""
        bundle = other.command("bundle", "show", "-format", "spiffe")
        path = self.folder / f"{other.domain}.json"
        path.write_text(bundle)
        trusted = f"spiffe://{other.domain}"
        self.command("bundle", "set", "-id", trusted, "-path", str(path), "-format", "spiffe")
