"""The screen of `meshproxy status`. 80 columns wide where names are not longer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshproxy.cli._local_page import printable
from meshproxy.control.fleet import short_identity
from meshproxy.telemetry.timestamps import duration

if TYPE_CHECKING:
    from rich.console import JustifyMethod

LABEL = 12
WIDTH = 80
SHOWN_PROBLEMS = 10
SHOWN_REFUSALS = 8


def show(status: dict[str, Any], address: str) -> None:
    """Print a status."""
    now = datetime.now(UTC)
    for label, text in _facts(status, address, now):
        _line(label, text)
    if status["servers"]:
        print_table(_servers(status["servers"]))
    if status["workers"]:
        print_table(_workers(status["workers"]))
    if status["refusals"]["last"]:
        print_table(_refusals(status["refusals"], now))


def _line(label: str, text: str) -> None:
    """A label, and a text that is wrapped beside it."""
    wrapped = click.wrap_text(printable(text), WIDTH, " " * LABEL, " " * LABEL)
    click.echo(f"{label:<{LABEL}}{wrapped[LABEL:]}".rstrip())


def print_table(table: Table, width: int = WIDTH) -> None:
    """As wide as the terminal, or else this wide, and without trailing spaces."""
    console = Console()
    if not console.is_terminal:
        console.width = width
    with console.capture() as captured:
        console.print(table)
    click.echo()
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _facts(status: dict[str, Any], address: str, now: datetime) -> list[tuple[str, str]]:
    up = _ago(status["startedAt"], now)
    lines = [
        ("sidecar", f"meshproxy {status['version']} at {address}, process {status['pid']}, up {up}"),
        ("state", status["state"].upper()),
    ]
    lines += [("attention" if not number else "", f"! {each}") for number, each in enumerate(status["attention"])]
    if status["documents"] is not None:
        lines += _documents(status["documents"], now)
    lines += _identity(status, now)
    lines += [(("issuers" if not number else ""), _issuer(each, now)) for number, each in enumerate(status["issuers"])]
    lines += [(name, _direction(each)) for name, each in status["directions"].items()]
    totals = ", ".join(f"{reason} {count:,}" for reason, count in status["refusals"]["total"].items())
    lines.append(("refusals", totals or "none"))
    return lines


def _documents(documents: dict[str, Any], now: datetime) -> list[tuple[str, str]]:
    counts = ", ".join(counted(count, what[:-1]) for what, count in documents["counts"].items())
    lines = [
        ("documents", f"{documents['fingerprint'][:12]}, in use for {_ago(documents['appliedAt'], now)}: {counts}"),
    ]
    last = documents["lastReload"]
    if last is not None:
        lines.append(("", f"last reload {last['result']} {_ago(last['at'], now)} ago"))
        if len(last["problems"]) > 1:  # a single one is in what needs attention
            lines += [("", f"- {problem}") for problem in last["problems"][:SHOWN_PROBLEMS]]
        if len(last["problems"]) > SHOWN_PROBLEMS:
            lines.append(("", f"- and {len(last['problems']) - SHOWN_PROBLEMS} more (-o json)"))
    return lines


def _identity(status: dict[str, Any], now: datetime) -> list[tuple[str, str]]:
    identity = status["identity"]
    if identity is None:
        return [("identity", "none: mtls is disabled" if status["mtls"] == "disabled" else "not known")]
    ends = datetime.fromisoformat(identity["notAfter"])
    when = f"expires in {duration((ends - now).total_seconds())}" if ends > now else "has EXPIRED"
    return [
        ("identity", identity["spiffeId"]),
        ("", f"{when} ({ends:%Y-%m-%d %H:%M:%S} UTC), mtls {status['mtls']}"),
    ]


def _issuer(issuer: dict[str, Any], now: datetime) -> str:
    fetched = "never fetched" if issuer["fetchedAt"] is None else f"fetched {_ago(issuer['fetchedAt'], now)} ago"
    failures = counted(issuer["failures"], "attempt")
    problem = f"; {failures} failed since: {issuer['problem']}" if issuer["problem"] else ""
    unused = f" and {len(issuer['unused'])} not used (-o json says why)" if issuer["unused"] else ""
    return f"{issuer['name']}: {counted(issuer['keys'], 'key')}{unused}, {fetched}{problem}"


def _direction(direction: dict[str, Any]) -> str:
    now, total = sum(direction["connections"].values()), direction["connectionsTotal"]
    shares = [f"{100 * count / sum(total.values()):.3g} % {_SECURITY[how]}" for how, count in total.items() if count]
    secured = f" of {sum(total.values()):,} so far ({', '.join(shares)})" if shares else ""
    calls = f"{direction['inFlight']:,} calls in flight, {direction['served']:,} served"
    state = "" if direction["state"] == "serving" else f"{direction['state']}, "
    return f"{direction['address']}, {state}{counted(now, 'connection')}{secured}, {calls}"


_SECURITY = {"mtls": "mTLS", "tls": "TLS without certificate", "plaintext": "plain text"}


def _servers(servers: dict[str, Any]) -> Table:
    table = new_table("SERVER", "ENDPOINT", "STATE", ">LATENCY", ">FLIGHT", ">CONN", "TLS")
    for name, server in servers.items():
        if not server["endpoints"]:
            table.add_row(name, "-", "no endpoints" if server["known"] else "not resolved", "", "", "", "")
        for number, endpoint in enumerate(server["endpoints"]):
            seconds = endpoint["latencySeconds"]
            table.add_row(
                name if not number else "",
                endpoint["endpoint"].replace(",", ", "),
                _state(endpoint),
                "-" if seconds is None else f"{seconds * 1_000:.3g} ms",
                str(endpoint["inFlight"]),
                str(endpoint["connections"]),
                _tls(endpoint["security"]),
            )
    return table


def _state(endpoint: dict[str, Any]) -> str:
    """Why an endpoint takes no calls, or that it does; and which models are away."""
    found = []
    if endpoint["ejected"]:
        found.append("ejected")
    if endpoint["healthy"] is False:
        found.append("unhealthy")
    if endpoint["breaker"] not in (None, "closed"):
        found.append(f"breaker {endpoint['breaker'].replace('_', '-')}")
    if endpoint["unavailableModels"]:
        found.append(f"without {', '.join(endpoint['unavailableModels'][:4])}")
    if endpoint["loadingModels"]:
        found.append(f"loading {', '.join(endpoint['loadingModels'][:4])}")
    if endpoint["modelBreakers"]:
        found.append(f"breaker open for {', '.join(list(endpoint['modelBreakers'])[:4])}")
    return "; ".join(found) or ("healthy" if endpoint["healthy"] else "ok")


def _tls(security: dict[str, str]) -> str:
    """One word, unless REST and gRPC differ."""
    words = {protocol: _TLS[how] for protocol, how in security.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{_PROTOCOLS[protocol]} {word}" for protocol, word in words.items())


_TLS = {"mtls": "mTLS", "tls": "TLS", "plaintext": "none"}
_PROTOCOLS = {"rest": "REST", "grpc": "gRPC"}


def _workers(workers: list[dict[str, Any]]) -> Table:
    table = new_table("WORKER", "PID", "STATE", "READY", "ADMIN", "DOCUMENTS")
    for worker in workers:
        table.add_row(
            str(worker["number"]),
            str(worker["pid"] or "-"),
            worker["state"],
            "yes" if worker["ready"] else "no",
            worker["admin"] or "-",
            (worker["fingerprint"] or "-")[:12],
        )
    return table


def _refusals(refusals: dict[str, Any], now: datetime) -> Table:
    """The last ones, those that are alike in one row."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for refusal in refusals["last"]:
        key = (
            _WAYS[refusal["direction"]],
            refusal["reason"],
            refusal["call"] or "-",
            short_identity(refusal["caller"] or "") or refusal["remote"].rpartition(":")[0],
            refusal["policy"] or "-",
        )
        alike.setdefault(key, []).append(refusal)
    table = new_table("AGO", ">N", "", "REFUSED", "CALL", "CALLER", "BY")
    for row, group in list(alike.items())[:SHOWN_REFUSALS]:
        table.add_row(_ago(group[0]["at"], now), str(len(group)), *row)
    return table


_WAYS = {"inbound": "in", "outbound": "out"}


class PlainTable(Table):
    """A table of texts of somebody else. They are no markup: an address in brackets would vanish, and a name that looks
    like the end of a tag be an error."""

    def add_row(self, *cells: str | Text) -> None:  # type: ignore[override]
        super().add_row(*[Text(printable(cell)) if isinstance(cell, str) else cell for cell in cells])


def new_table(*headings: str) -> PlainTable:
    """A table without lines; `>` before a heading is for numbers: to the right, and not folded where it is narrow."""
    table = PlainTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for heading in headings:
        is_right = heading.startswith(">")
        justify: JustifyMethod = "right" if is_right else "left"
        table.add_column(Text(printable(heading.removeprefix(">"))), justify=justify, overflow="fold", no_wrap=is_right)
    return table


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _ago(moment: str, now: datetime) -> str:
    return duration((now - datetime.fromisoformat(moment)).total_seconds())
