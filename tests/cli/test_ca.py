from __future__ import annotations

import asyncio
import json
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from meshproxy.cli.ca import command
from meshproxy.control.authority import Authority
from meshproxy.control.authority_secret import AuthoritySecret
from meshproxy.control.cluster import connect, connect_blocking
from meshproxy.control.leaf import Leaf
from meshproxy.control.leaves import FolderLeaves
from meshproxy.control.plane import Plane
from meshproxy.control.plane_records import PlaneRecords
from meshproxy.control.root_rotation import SETTLE_SECONDS, in_force
from meshproxy.control.rotator import Rotator
from meshproxy.control.secret_content import Content, data_of, read_content
from meshproxy.control.secret_place import SecretPlace
from meshproxy.control.shared_leaves import SharedLeaves
from meshproxy.control.shared_objects import SharedObjects
from meshproxy.control.store import CERTIFICATE, FolderStore, Unreachable
from meshproxy.control_api import leaf_name
from meshproxy.identity.certificates import IdentityFiles, own_identity
from tests.control.fake_api_server import FakeApiServer
from tests.control.shared import Memory


def run(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(command, ["dev", "--out", str(directory), *arguments])


def spiffe_id(directory: Path, name: str, trust_domain: str = "dev.example") -> str:
    """Of a pair that has been written, as a sidecar reads it."""
    files = IdentityFiles(directory / f"{name}.pem", directory / f"{name}-key.pem", directory / "ca.pem")
    return own_identity(files.read(), trust_domain, time()).workload.spiffe_id


@pytest.mark.parametrize(
    ("arguments", "status", "why"),
    [
        (["--days", "99999999"], 2, "--days"),
        (["--dns", "bücher.example"], 2, "--dns: bücher.example: certificates have names in ASCII"),
        (["--dns", "a b"], 2, '--dns: expected a host name, got "a b"'),
        (["--dns", ""], 2, '--dns: expected a host name, got ""'),
        (["--dns", "a.*.example"], 2, '--dns: expected a host name, got "a.*.example"'),
        (["--dns", "127.0.0.1"], 2, "--dns: 127.0.0.1 is an address"),
        (["--out", "/proc/nothing"], 1, "cannot write /proc/nothing: No such file or directory"),
    ],
)
def test_what_cannot_be_is_a_sentence(arguments: list[str], status: int, why: str, tmp_path: Path) -> None:
    result = run(tmp_path / "out", *arguments)
    assert result.exit_code == status
    assert why in result.output
    assert not (tmp_path / "out").exists()


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
    arguments += ["--dns", "*.Pods.example.", "--dns", "tf_serving"]
    assert run(tmp_path, *arguments, "--client", "spiffe://m.example/x/one").exit_code == 0
    assert spiffe_id(tmp_path, "server", "m.example") == "spiffe://m.example/srv"
    assert spiffe_id(tmp_path, "one", "m.example") == "spiffe://m.example/x/one"
    text = subprocess.run(
        ["openssl", "x509", "-in", str(tmp_path / "server.pem"), "-noout", "-ext", "subjectAltName"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "DNS:a.example, DNS:*.pods.example, DNS:tf_serving" in text


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


# The root of a control plane


def ca(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def control(tmp_path: Path) -> Path:
    FolderStore(tmp_path).authority("m.example", time())
    return tmp_path


def settled(folder: Path) -> None:
    """The last step was taken a while ago."""
    store = FolderStore(folder)
    rotation = store.rotation()
    assert rotation is not None
    store.save_rotation(msgspec.structs.replace(rotation, since=rotation.since - SETTLE_SECONDS))


def test_the_root_is_replaced_step_by_step(control: Path) -> None:
    folder = ("--folder", str(control))
    result = ca("status", *folder)
    assert (result.exit_code, "no rotation is under way" in result.output) == (0, True)
    before = ca("bundle", *folder).output
    for step in ("step 1 of 3", "step 2 of 3", "step 3 of 3", "no rotation is under way"):
        result = ca("rotate", *folder)
        assert result.exit_code == 0, result.output
        assert step in result.output
        if "step" in step:
            refused = ca("rotate", *folder)
            assert (refused.exit_code, refused.output.splitlines()[0]) == (3, "not safe yet, and not done:")
            assert ca("status", *folder).exit_code == 3
            settled(control)
            assert ca("status", *folder).exit_code == 0
    after = ca("bundle", *folder).output
    assert after == (control / CERTIFICATE).read_text() != before


def test_a_sidecar_that_lacks_the_bundle_is_named(control: Path) -> None:
    folder = ("--folder", str(control))
    leaf = Leaf(leaf_name(b"x", time() + 60.0), "spiffe://m.example/ns/a/sa/b", "a1", sidecar="replica")
    FolderLeaves(control).write([leaf])
    ca("rotate", *folder)
    settled(control)
    refused = ca("rotate", *folder)
    assert refused.exit_code == 3
    assert "spiffe://m.example/ns/a/sa/b (replica), certificate until" in refused.output
    page = json.loads(ca("status", "-o", "json", *folder).output)
    assert [each["sidecar"] for each in page["rotation"]["withoutBundle"]] == ["replica"]
    forced = ca("rotate", "--force", *folder)
    assert forced.exit_code == 0
    assert "forced, and so:" in forced.output
    assert "step 2 of 3" in forced.output


def test_it_waits_for_each_step(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def passes(seconds: float) -> None:
        settled(control)

    monkeypatch.setattr("time.sleep", passes)
    result = ca("rotate", "--wait", "--folder", str(control))
    assert result.exit_code == 0
    said = [line.partition(",")[0] for line in result.output.splitlines() if line.startswith("step")]
    assert said == ["step 1 of 3", "step 2 of 3", "step 3 of 3"]
    assert result.output.count("waiting:") == 3
    assert "no rotation is under way" in result.output


def test_a_rotation_is_undone(control: Path) -> None:
    folder = ("--folder", str(control))
    before = (control / CERTIFICATE).read_text()
    assert "there is nothing to undo" in ca("rotate", "--undo", *folder).output
    ca("rotate", *folder)
    settled(control)
    result = ca("rotate", "--undo", *folder)
    assert (result.exit_code, "no rotation is under way" in result.output) == (0, True)
    assert ca("bundle", *folder).output == before


@pytest.mark.parametrize("arguments", [["status"], ["bundle"], ["rotate"], ["rotate", "--wait"]])
def test_a_folder_that_is_no_control_plane(tmp_path: Path, arguments: list[str]) -> None:
    result = ca(*arguments, "--folder", str(tmp_path))
    assert result.exit_code == 1
    assert "name the one of `meshproxy control run`" in result.output
    assert list(tmp_path.iterdir()) in ([], [tmp_path / ".lock"])


def test_options_that_contradict_each_other(control: Path) -> None:
    result = ca("rotate", "--wait", "--force", "--folder", str(control))
    assert (result.exit_code, "cannot be combined" in result.output) == (2, True)


# The root of a control plane in a cluster


@pytest.fixture
async def fake() -> AsyncIterator[FakeApiServer]:
    async with FakeApiServer() as fake:
        yield fake


async def test_the_root_in_a_secret_is_replaced_step_by_step(
    fake: FakeApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts and the exit status are those of a folder, but for the control planes."""
    kubeconfig = fake.write_kubeconfig(tmp_path, "elsewhere")
    client = connect(kubeconfig, "mesh")
    await AuthoritySecret(client, "authority", FolderStore(tmp_path / "a"), "m.example").bring(time())
    await client.close()
    objects = SharedObjects(connect_blocking(kubeconfig), "mesh")
    secret = ("--authority-secret", "authority", "--control-namespace", "mesh", "--kubeconfig", str(kubeconfig))
    monkeypatch.setattr("meshproxy.control.root_rotation.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("meshproxy.control.root_rotation.TELLS_EVERY", 0.0)

    def steps() -> None:
        before = ca("bundle", *secret).output
        assert "no rotation is under way" in ca("status", *secret).output
        place = SecretPlace(objects, "authority")
        for step in ("step 1 of 3", "step 2 of 3", "step 3 of 3", "no rotation is under way"):
            result = ca("rotate", *secret)
            assert (result.exit_code, step in result.output) == (0, True), result.output
            if "step" not in step:
                break
            PlaneRecords(objects, "authority").write(Plane("plane-1", "what was before", time(), 60.0))
            refused = ca("rotate", *secret)
            assert (refused.exit_code, refused.output.splitlines()[0]) == (3, "not safe yet, and not done:")
            assert "control plane plane-1, last heard of" in refused.output
            assert "unless control planes are sooner" in ca("status", *secret).output
            page = json.loads(ca("status", "-o", "json", *secret).output)["rotation"]
            assert (page["obstacle"], page["controlPlanes"][0]["name"]) == ("unnoticed", "plane-1")
            place.rotation()
            authority = place.find_authority()
            assert authority is not None
            PlaneRecords(objects, "authority").write(Plane("plane-1", in_force(authority), time(), 60.0))
            assert ca("status", *secret).exit_code == 0
        assert ca("bundle", *secret).output != before

    await asyncio.to_thread(steps)
    fake.status = 403
    result = await asyncio.to_thread(ca, "rotate", *secret)
    assert result.exit_code == 1
    assert "Error: the Secret mesh/authority cannot be read: the API server answered 403: you may not get it" in (
        result.output
    )
    objects.close()


class Gone:
    """A cluster that does not answer now and then."""

    def __init__(self, place: SecretPlace) -> None:
        self._place = place
        self.fails: list[str] = []
        """The next calls that fail, by their names; `+` before one that is carried out all the same."""

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._place, name)

        def call(*arguments: Any) -> Any:
            if self.fails and self.fails[0].lstrip("+") == name:
                if self.fails.pop(0).startswith("+"):
                    real(*arguments)
                raise Unreachable("the Secret mesh/authority cannot be read: no answer")
            return real(*arguments)

        return call if callable(real) else real


def waiting(monkeypatch: pytest.MonkeyPatch, *fails: str) -> tuple[Result, Memory]:
    """`rotate --wait` with control planes that notice each step, and calls that fail after the first step."""
    objects = Memory()
    data = {name: text for name, text in data_of(Content(Authority.create("m.example", time()))).items() if text}
    objects.write("secrets", "authority", data)
    place = Gone(SecretPlace(objects, "authority"))
    now = [time()]

    def notice() -> None:
        content = read_content(objects.data["secrets", "authority"], "it")
        if content.rotation is not None:
            plane = Plane("a", in_force(content.authority), now[0], 60.0)
            PlaneRecords(objects, "authority").write(plane)

    def passes(seconds: float) -> None:
        if not is_failing:
            is_failing.append(True)
            place.fails += fails
        now[0] += SETTLE_SECONDS
        notice()

    is_failing: list[bool] = []
    kept = SharedLeaves(objects, "authority")
    monkeypatch.setattr("meshproxy.cli.ca._rotator", lambda **_: Rotator(place, kept, lambda: now[0]))
    monkeypatch.setattr("time.sleep", passes)
    return ca("rotate", "--wait"), objects


@pytest.mark.parametrize(
    "fails", [(), ("rotation",), ("rotation", "rotation", "rotation"), ("save_rotation",), ("+save_rotation",)]
)
def test_an_api_server_that_is_away_while_it_waits(fails: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    result, objects = waiting(monkeypatch, *fails)
    assert result.exit_code == 0, result.output
    assert "rotation.json" not in objects.data["secrets", "authority"]
    assert result.output.count("no rotation is under way") == 1
    assert result.output.count("waiting:\n  the Secret mesh/authority cannot be read: no answer\n") == bool(fails)


def test_a_last_step_whose_answer_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken: no other rotation is begun."""
    result, objects = waiting(monkeypatch, "+end_rotation")
    assert result.exit_code == 0, result.output
    assert "rotation.json" not in objects.data["secrets", "authority"]
    assert result.output.count("step 1 of 3") == 1


def test_an_api_server_that_is_away_from_the_beginning(tmp_path: Path) -> None:
    server = {"current-context": "a", "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}]}
    cluster = {
        "clusters": [{"name": "a", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "a", "user": {}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(server | cluster))
    result = ca("rotate", "--wait", "--authority-secret", "authority", "--kubeconfig", str(path))
    assert result.exit_code == 1
    assert "no answer from http://127.0.0.1:9 (ConnectError: " in result.output
