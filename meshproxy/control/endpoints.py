"""The endpoints of the Services that documents name, as they are now."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from meshproxy.codec.grpc import frame
from meshproxy.config.schema import ModelServer
from meshproxy.control.slices import combine
from meshproxy.control_api import ServiceEndpoints

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from meshproxy.control.scope import Change
    from meshproxy.control.slices import EndpointSlice

SliceKey = tuple[str, str]
"""Namespace and name."""


class Current(msgspec.Struct, frozen=True):
    """The endpoints of one Service, and the framed message that sends them."""

    endpoints: ServiceEndpoints
    message: bytes


class EndpointTable:
    """Slices by Service. What a change costs depends on the slices of its Service alone.

    Attributes:
        named: the Services that documents name.
        has_names: documents have been read.
        on_change: called with each Service whose endpoints may be others now.
        on_named: called when `named` has changed.
    """

    def __init__(self, unread: str = "the control plane has not read it from the cluster yet") -> None:
        """`unread`: why the endpoints of a Service that is named are not known before its first list."""
        self._unread = unread
        self.named: frozenset[str] = frozenset()
        self.has_names = False
        self._unanswered: set[str] = set()
        """What was asked for before there were documents."""
        self.on_change: Callable[[str], None] = lambda service: None
        self.on_named: Callable[[], None] = lambda: None
        self._slices: dict[str, dict[SliceKey, EndpointSlice]] = {}
        """Of each Service that is known."""
        self._service_of: dict[SliceKey, str] = {}
        self._current: dict[str, Current] = {}
        """What was computed, until the next change."""

    def name(self, services: Iterable[str]) -> None:
        """Documents name these Services now. What others had is forgotten."""
        self.has_names = True
        before, self.named = self.named, frozenset(services)
        unanswered, self._unanswered = self._unanswered, set()
        for service in before - self.named:
            for key in self._slices.pop(service, ()):
                del self._service_of[key]
        changed = before ^ self.named
        for service in sorted(changed | unanswered):
            self._changed(service)
        if changed:
            self.on_named()

    def replace(self, services: Collection[str], slices: Iterable[EndpointSlice]) -> None:
        """All slices of these Services: from now on they are known."""
        found: dict[str, dict[SliceKey, EndpointSlice]] = {service: {} for service in services}
        for each in slices:
            if (service := each.service) in found:
                found[service][_key(each)] = each
        for service, its in found.items():
            if service not in self.named or self._slices.get(service) == its:
                continue
            for key in self._slices.get(service, ()):
                if self._service_of.get(key) == service:
                    del self._service_of[key]
            self._slices[service] = its
            self._service_of.update(dict.fromkeys(its, service))
            self._changed(service)

    def put(self, each: EndpointSlice) -> None:
        """A slice is there, or is another than before. Its label may have come to name another Service."""
        key, service = _key(each), each.service
        if self._service_of.get(key) not in (None, service):
            self.remove(*key)
        if service is None or service not in self._slices:
            return  # not named, or not yet known as a whole
        if self._slices[service].get(key) != each:
            self._slices[service][key] = each
            self._service_of[key] = service
            self._changed(service)

    def remove(self, namespace: str, name: str) -> None:
        """A slice is gone."""
        service = self._service_of.pop((namespace, name), None)
        if service is not None:
            del self._slices[service][namespace, name]
            self._changed(service)

    def current(self, service: str) -> Current:
        """What there is to know of a Service."""
        current = self._current.get(service)
        if current is None:
            endpoints = self._combine(service)
            current = Current(endpoints, frame(msgspec.json.encode(endpoints)))
            if service in self.named:  # others are up to who asks
                self._current[service] = current
        return current

    def is_known(self, service: str) -> bool:
        """Whether it has been read from the cluster."""
        return service in self._slices

    def counts(self) -> list[tuple[tuple[str], int]]:
        """The number of endpoints of each Service that is known."""
        return [((service,), len(self.current(service).endpoints.endpoints)) for service in sorted(self._slices)]

    def _combine(self, service: str) -> ServiceEndpoints:
        if not self.has_names:
            self._unanswered.add(service)
            return ServiceEndpoints(service, problem=f"Service {service}: the control plane has no documents yet")
        if service not in self.named:
            return ServiceEndpoints(service, problem=f"Service {service}: no ModelServer of the control plane names it")
        slices = self._slices.get(service)
        if slices is None:
            return ServiceEndpoints(service, problem=f"Service {service}: {self._unread}")
        return combine(service, slices.values())

    def _changed(self, service: str) -> None:
        self._current.pop(service, None)
        self.on_change(service)


class NamedServices:
    """The Services that documents name."""

    def __init__(self, table: EndpointTable) -> None:
        """`table`: is told when they are others."""
        self._table = table
        self._counts: Counter[str] = Counter()

    def follow(self, changes: Sequence[Change]) -> None:
        """Documents have changed (`MeshDocuments.listeners`)."""
        is_touched = not self._table.has_names
        for change in changes:
            for held, step in ((change.before, -1), (change.after, 1)):
                if held is not None and isinstance(held.document, ModelServer) and held.document.spec.service:
                    self._counts[held.document.spec.service.key] += step
                    is_touched = True
        if is_touched:
            self._table.name(+self._counts)


def _key(each: EndpointSlice) -> SliceKey:
    return each.metadata.namespace, each.metadata.name
