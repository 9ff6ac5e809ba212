"""curl, nghttp and h2load, as people use them."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from meshproxy.devtools.local_mesh import LocalSidecar

pytestmark = pytest.mark.asyncio(loop_scope="session")

MODEL = "/v1/models/half_plus_two"
BODY = '{"instances": [1.0, 2.0, 5.0]}'
ANSWER = {"predictions": [3.5, 4.0, 5.5]}


async def run(*arguments: str, stdin: bytes | None = None) -> str:
    """Runs a tool; its standard output. It must succeed."""
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(stdin)
    assert process.returncode == 0, errors.decode(errors="replace")
    return output.decode()


async def curl(*arguments: str, stdin: bytes | None = None) -> str:
    return await run("curl", "--silent", "--show-error", "--max-time", "20", *arguments, stdin=stdin)


def tls(running: LocalSidecar) -> list[str]:
    """curl's options for a client with a certificate."""
    client = running.client
    port = running.port
    return [
        *("--cacert", str(client.bundle), "--cert", str(client.certificate), "--key", str(client.key)),
        *("--connect-to", f"localhost:443:127.0.0.1:{port}"),
    ]


async def test_curl_http_1_1(plain: LocalSidecar) -> None:
    assert json.loads(await curl("--http1.1", "-d", BODY, f"http://{plain.inbound}{MODEL}:predict")) == ANSWER


async def test_curl_http_1_0(plain: LocalSidecar) -> None:
    assert json.loads(await curl("--http1.0", "-d", BODY, f"http://{plain.inbound}{MODEL}:predict")) == ANSWER


async def test_curl_keeps_its_connection(plain: LocalSidecar) -> None:
    urls = [f"http://{plain.inbound}{MODEL}"] * 5
    discard = [option for _ in urls for option in ("-o", "/dev/null")]
    said = await curl("--http1.1", "-w", "%{http_code} %{num_connects}\n", *discard, *urls)
    assert said.split() == ["200", "1", "200", "0", "200", "0", "200", "0", "200", "0"]


async def test_curl_http_2_with_prior_knowledge(plain: LocalSidecar) -> None:
    said = await curl(
        "--http2-prior-knowledge", "-w", "\n%{http_version}", "-d", BODY, f"http://{plain.inbound}{MODEL}:predict"
    )
    document, _, version = said.rpartition("\n")
    assert (json.loads(document), version) == (ANSWER, "2")


@pytest.mark.parametrize(("option", "version"), [("--http1.1", "1.1"), ("--http2", "2")])
async def test_curl_over_tls_chooses_by_alpn(strict: LocalSidecar, option: str, version: str) -> None:
    said = await curl(option, *tls(strict), "-w", "\n%{http_version}", "-d", BODY, f"https://localhost{MODEL}:predict")
    document, _, spoken = said.rpartition("\n")
    assert (json.loads(document), spoken) == (ANSWER, version)


async def test_curl_without_a_certificate_gets_no_answer(strict: LocalSidecar) -> None:
    arguments = ["--cacert", str(strict.client.bundle), "--connect-to", f"localhost:443:127.0.0.1:{strict.port}"]
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--max-time", "20", *arguments, f"https://localhost{MODEL}"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert output == b""
    assert process.returncode in (18, 35, 52, 55, 56)  # TLS alert, or closed before an answer


@pytest.mark.parametrize("option", ["--http1.1", "--http2-prior-knowledge"])
async def test_curl_uploads_what_it_cannot_measure(plain: LocalSidecar, option: str) -> None:
    """From standard input: chunked on HTTP/1.1, no content-length on HTTP/2."""
    headers = ["-H", "transfer-encoding: chunked"] if option == "--http1.1" else []
    numbers = [float(number) for number in range(50_000)]
    upload = json.dumps({"instances": numbers, "signature_name": "echo"}).encode()
    said = await curl(option, *headers, "-X", "POST", "-T", "-", f"http://{plain.inbound}{MODEL}:predict", stdin=upload)
    assert json.loads(said)["predictions"] == numbers


async def test_curl_waits_for_100_continue(plain: LocalSidecar, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"instances": [1.0] * 300_000, "signature_name": "echo"}))
    process = await asyncio.create_subprocess_exec(
        *("curl", "--silent", "--verbose", "--http1.1", "--max-time", "20", "-H", "expect: 100-continue"),
        *("--expect100-timeout", "15", "--data-binary", f"@{body}", f"http://{plain.inbound}{MODEL}:predict"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, talk = await process.communicate()
    assert len(json.loads(output)["predictions"]) == 300_000
    assert b"< HTTP/1.1 100 Continue" in talk
    assert b"Done waiting for 100-continue" not in talk


async def test_curl_head(plain: LocalSidecar) -> None:
    said = await curl("--http1.1", "--head", "-w", "%{http_code} %{size_download}", f"http://{plain.inbound}{MODEL}")
    status_line, _, rest = said.partition("\r\n")
    # TensorFlow Serving knows GET and POST only, and so do we.
    assert re.fullmatch(r"HTTP/1\.1 4\d\d .*", status_line)
    assert rest.endswith(" 0")


async def test_curl_pipes_many_requests_over_one_http_2_connection(strict: LocalSidecar) -> None:
    urls = [f"https://localhost{MODEL}"] * 50
    discard = [option for _ in urls for option in ("-o", "/dev/null")]
    said = await curl("--http2", "--parallel", *tls(strict), "-w", "%{http_code}\n", *discard, *urls)
    assert said.split() == ["200"] * 50


async def test_nghttp_with_prior_knowledge(plain: LocalSidecar, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text(BODY)
    said = await run("nghttp", "--data", str(body), f"http://{plain.inbound}{MODEL}:predict")
    assert json.loads(said) == ANSWER


async def test_nghttp_over_tls(strict: LocalSidecar) -> None:
    client = strict.client
    arguments = [f"--cert={client.certificate}", f"--key={client.key}"]
    said = await run("nghttp", *arguments, f"https://{strict.inbound}{MODEL}")
    assert json.loads(said)["model_version_status"][0]["state"] == "AVAILABLE"


@pytest.mark.parametrize("padding", [0, 200])
async def test_nghttp_multiplexes_with_padding_and_small_windows(plain: LocalSidecar, padding: int) -> None:
    options = ["--stat", "--null-out", "--multiply=20", f"--padding={padding}", "--window-bits=8"]
    said = await run("nghttp", *options, f"http://{plain.inbound}{MODEL}")
    assert len(re.findall(r"\s200\s", said)) == 20


@pytest.mark.parametrize("options", [["--h1"], []], ids=["http/1.1", "http/2"])
async def test_h2load_loses_nothing(plain: LocalSidecar, options: list[str]) -> None:
    said = await run("h2load", *options, "-n2000", "-c20", "-m10", f"http://{plain.inbound}{MODEL}")
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in said
    assert "status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx" in said
