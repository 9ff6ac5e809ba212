from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from meshproxy.cli.issuer import command
from meshproxy.devtools.child import ISSUER, Child


@pytest.mark.parametrize("client", ["quoter", "quoter:", ":secret", "a:b:c:d"])
def test_a_client_that_cannot_be_read_is_a_usage_error(client: str) -> None:
    result = CliRunner().invoke(command, ["--client", client])
    assert result.exit_code == 2
    assert "--client" in result.output
    assert "NAME:SECRET:GROUP,GROUP" in result.output


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        command_line = [*ISSUER, "--port", port]
        done = subprocess.run(command_line, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert done.stderr.splitlines()[-1].startswith("Error: cannot listen: ")
    assert port in done.stderr.splitlines()[-1]


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "meshproxy.devtools.issuer", raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 1
    assert "pipx install --force '.[control,demo]'" in result.output


async def test_as_a_process_it_gives_tokens_to_its_clients_alone(tmp_path: Path) -> None:
    options = ("--algorithm", "ES256", "--audience", "mine", "--client", "app:word:a,b", "--name", "localhost")
    child = await Child.start("the issuer", *ISSUER, *options, directory=tmp_path)
    try:
        issuer = str(child.listening["issuer"])
        assert issuer.startswith("http://localhost:")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{issuer}/.well-known/openid-configuration") as response:
                assert (await response.json())["jwks_uri"] == child.listening["keys"]
            async with session.get(str(child.listening["keys"])) as response:
                (key,) = (await response.json())["keys"]
                assert (key["alg"], key["crv"]) == ("ES256", "P-256")
            statuses = []
            for secret in ("word", "wrong"):
                form = {"grant_type": "client_credentials", "client_id": "app", "client_secret": secret}
                async with session.post(f"{issuer}/token", data=form) as response:
                    statuses.append(response.status)
            assert statuses == [200, 401]
    finally:
        assert await child.stop() == 0
