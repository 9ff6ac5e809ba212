from __future__ import annotations

import ssl
import stat
import subprocess
from pathlib import Path
from time import time

import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.ca import command
from meshproxy.identity.certificates import IdentityFiles, own_identity


def run(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["dev", "--out", str(directory), *arguments])


def spiffe_id(directory: Path, name: str, trust_domain: str = "dev.example") -> str:
    """Of a pair that has been written, as a sidecar reads it."""
    files = IdentityFiles(directory / f"{name}.pem", directory / f"{name}-key.pem", directory / "ca.pem")
    return own_identity(files.read(), trust_domain, time()).workload.spiffe_id


def test_what_a_first_sidecar_needs(tmp_path: Path) -> None:
    result = run(tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert [Path(line).name for line in result.output.splitlines()] == [
        "ca.pem",
        *("server.pem", "server-key.pem"),
        *("quoter.pem", "quoter-key.pem"),
        *("nightly.pem", "nightly-key.pem"),
    ]
    assert spiffe_id(tmp_path / "out", "server") == "spiffe://dev.example/ns/models/sa/tensorflow-serving"
    assert spiffe_id(tmp_path / "out", "quoter") == "spiffe://dev.example/ns/pricing/sa/quoter"
    for path in (tmp_path / "out").glob("*-key.pem"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_named_ones(tmp_path: Path) -> None:
    arguments = ["--trust-domain", "m.example", "--server", "spiffe://m.example/srv", "--dns", "a.example"]
    assert run(tmp_path, *arguments, "--client", "spiffe://m.example/x/one").exit_code == 0
    assert spiffe_id(tmp_path, "server", "m.example") == "spiffe://m.example/srv"
    assert spiffe_id(tmp_path, "one", "m.example") == "spiffe://m.example/x/one"
    text = subprocess.run(
        ["openssl", "x509", "-in", str(tmp_path / "server.pem"), "-noout", "-ext", "subjectAltName"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DNS:a.example" in text


def test_the_authority_stays_unless_it_is_to_go(tmp_path: Path) -> None:
    run(tmp_path)
    first = (tmp_path / "ca.pem").read_bytes()
    run(tmp_path, "--client", "spiffe://dev.example/later")
    assert (tmp_path / "ca.pem").read_bytes() == first
    assert spiffe_id(tmp_path, "later") == "spiffe://dev.example/later"
    run(tmp_path, "--new-authority")
    assert (tmp_path / "ca.pem").read_bytes() != first
    assert spiffe_id(tmp_path, "server")


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["--client", "spiffe://dev.example/"], 2, "not the SPIFFE id"),
        (["--client", "spiffe://dev.example/\udcff"], 2, "not the SPIFFE id"),
        (["--client", "spiffe://other.example/a"], 2, "is not in the trust domain dev.example"),
        (
            ["--client", "spiffe://dev.example/a/x", "--client", "spiffe://dev.example/b/x"],
            2,
            "would overwrite another certificate",
        ),
        (["--client", "spiffe://dev.example/server"], 2, "would overwrite another certificate"),
        (["--trust-domain", "Dev.Example"], 2, "not the SPIFFE id"),
        (["--days", "0"], 2, "--days"),
        (["--trust-domain", "new.example"], 1, "is the CA of dev.example, not of new.example"),
    ],
)
def test_called_wrongly(tmp_path: Path, arguments: list[str], status: int, why: str) -> None:
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(tmp_path, *arguments)
    assert (result.exit_code, why in result.output) == (status, True), result.output
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_authority_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not one")
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "--new-authority replaces it" in result.output
    assert run(tmp_path, "--new-authority").exit_code == 0


def test_the_script_in_the_folder_of_certificates(tmp_path: Path) -> None:
    """`certs/make-dev-certs` is the same command, for people who look there."""
    script = Path(__file__).parents[2] / "certs" / "make-dev-certs"
    done = subprocess.run([script, "--out", tmp_path, "--days", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert spiffe_id(tmp_path, "server") == "spiffe://dev.example/ns/models/sa/tensorflow-serving"
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "ca.pem").read_text())
    assert der
