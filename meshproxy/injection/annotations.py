"""What a pod may choose about its sidecar: the annotations `config.meshproxy.dev/*`, all of which are checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshproxy.config import values
from meshproxy.config.problems import closest
from meshproxy.injection.capture import MAX_PORT
from meshproxy.injection.settings import (
    Resources,
    Settings,
    amount,
    read_cpu,
    read_image,
    read_memory,
    read_whole,
    times,
)
from meshproxy.log_level import LEVELS

PREFIX = "config.meshproxy.dev/"
WORKERS = 64


@dataclass(frozen=True, slots=True)
class Choices:
    """What one pod has chosen; what it has not is as the operator says."""

    image: str
    server: str
    resources: Resources
    log_level: str
    drain_timeout: float
    """Seconds."""
    has_drain_timeout: bool
    container: str | None = None
    """The container of the model server. None: the one that looks like it."""
    is_inbound: bool | None = None
    """It has a model server. None: as it looks."""
    is_outbound: bool | None = None
    """It calls model servers. None: if it has none itself."""
    has_drain_hook: bool | None = None
    """None: if the container could need it and has no `preStop` of its own."""
    probes_sidecar: bool = False
    """Probes of the model server go to the sidecar."""
    is_captured: bool = False
    """Connections are led to the sidecar, whatever they are addressed to."""
    outbound_ports: tuple[int, ...] = (8500, 8501)
    """Those of the application that are, by their ports."""
    access_log: str = "stdout"
    workers: int = 1


def _word(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {' or '.join(words)}, got {values.shown(text)}")
        return text

    return read


def _switch(text: str) -> bool:
    return _word("enabled", "disabled")(text) == "enabled"


def _workers(text: str) -> int:
    return read_whole(text, 1, WORKERS)


def _ports(text: str) -> tuple[int, ...]:
    try:
        return tuple(read_whole(each, 1, MAX_PORT) for each in text.split(","))
    except ValueError:
        raise ValueError(f"expected ports, such as 8500,8501, got {values.shown(text)}") from None


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "access-log": ("access_log", _word("stdout", "off")),
    "capture": ("is_captured", _switch),
    "container": ("container", values.read_name),
    "cpu-limit": ("cpu_limit", read_cpu),
    "cpu-request": ("cpu_request", read_cpu),
    "drain-hook": ("has_drain_hook", _switch),
    "drain-timeout": ("drain_timeout", values.read_duration_or_zero),
    "image": ("image", read_image),
    "inbound": ("is_inbound", _switch),
    "log-level": ("log_level", _word(*LEVELS)),
    "memory-limit": ("memory_limit", read_memory),
    "memory-request": ("memory_request", read_memory),
    "outbound": ("is_outbound", _switch),
    "outbound-ports": ("outbound_ports", _ports),
    "probes": ("probes_sidecar", lambda text: _word("keep", "sidecar")(text) == "sidecar"),
    "server": ("server", values.read_name),
    "workers": ("workers", _workers),
}
NAMES = tuple(_READERS)
"""What follows the prefix."""
_RESOURCES = ("cpu_request", "memory_request", "cpu_limit", "memory_limit")


def read_choices(annotations: Mapping[str, str], settings: Settings) -> tuple[Choices, list[str]]:
    """What a pod chooses, and everything that is wrong with it."""
    problems: list[str] = []
    found: dict[str, Any] = {}
    for key, text in annotations.items():
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        if name not in _READERS:
            problems.append(f"{PREFIX}{values.shown(name)[1:-1]}: no such setting{closest(name, NAMES)}")
            continue
        field, read = _READERS[name]
        try:
            found[field] = read(text)
        except ValueError as error:
            problems.append(f"{key}: {error}")
    if found.get("is_inbound") is False and found.get("is_outbound") is False:
        problems.append(
            f"{PREFIX}inbound and {PREFIX}outbound are both disabled: label the pod meshproxy.dev/inject=disabled"
        )
    if "outbound_ports" in found and not found.get("is_captured"):
        problems.append(f"{PREFIX}outbound-ports: nothing is captured without {PREFIX}capture=enabled")
    chosen = {name: found.pop(name) for name in _RESOURCES if name in found}
    resources = _resources(chosen, _for_workers(settings.resources, found.get("workers", 1)), problems)
    has_drain_timeout = "drain_timeout" in found
    defaults = {
        "image": settings.image,
        "server": settings.server,
        "log_level": settings.log_level,
        "drain_timeout": settings.drain_timeout,
    }
    return Choices(resources=resources, has_drain_timeout=has_drain_timeout, **{**defaults, **found}), problems


def _for_workers(resources: Resources, workers: int) -> Resources:
    """What several workers need: each is a process. Eight do not start with the memory of one."""
    limit = resources.memory_limit
    return replace(
        resources,
        memory_request=times(resources.memory_request, workers),
        memory_limit=None if limit is None else times(limit, workers),
    )


def _resources(found: dict[str, str], defaults: Resources, problems: list[str]) -> Resources:
    """A limit below the request that the operator chose takes the request with it, and the other way round."""
    chosen = {name: found.get(name, getattr(defaults, name)) for name in _RESOURCES}
    for kind in ("cpu", "memory"):
        request, limit = f"{kind}_request", f"{kind}_limit"
        if chosen[limit] is None or amount(chosen[request]) <= amount(chosen[limit]):
            continue
        if request in found and limit in found:
            problems.append(f"{PREFIX}{kind}-request: {chosen[request]} is above {PREFIX}{kind}-limit, {chosen[limit]}")
        elif request in found:
            chosen[limit] = chosen[request]
        else:
            chosen[request] = chosen[limit]
    return Resources(**chosen)
