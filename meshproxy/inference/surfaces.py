"""The wire surfaces that the proxy knows, and the operation of a request: the first surface that owns it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from meshproxy.inference.call import Call, Verb
from meshproxy.inference.grpc_services import GRPC_SERVICES
from meshproxy.inference.surface import Operation, StatusProbe, Surface, show_request
from meshproxy.inference.tfserving import TENSORFLOW_SERVING, tensorflow_serving
from meshproxy.inference.tfserving_rest import METRICS_PATH
from meshproxy.refusal import Reason, Refusal

REST_MEMO = 1024
"""Request lines of REST whose operations are remembered: about 1 KB each."""
GRPC_MEMO = 256
"""The same for gRPC methods that no table has."""
PATH_BYTES = 512
"""Longest `:path` of a gRPC method that no table has."""

_PATH = re.compile(rb"/((?:[A-Za-z_][A-Za-z0-9_]*\.)*[A-Za-z_][A-Za-z0-9_]*)/[A-Za-z_][A-Za-z0-9_]*")


class Surfaces:
    """Surfaces in the order in which they are asked.

    Attributes:
        find_rest: method and target of a REST request, as they came -> its operation. 0.1 us for a request line that
            is remembered, 5 otherwise. Raises Refusal (BAD_REQUEST): status 404 if the target is no surface's, 400 if
            its surface cannot read it.
    """

    def __init__(self, surfaces: Iterable[Surface]) -> None:
        """
        Raises:
            ValueError: two surfaces have one gRPC method.
        """
        self._surfaces = tuple(surfaces)
        self._methods: dict[bytes, Operation] = {}
        for surface in self._surfaces:
            if twice := self._methods.keys() & surface.methods.keys():
                raise ValueError(f"{surface.name} and another wire surface both have the method {min(twice)!r}")
            self._methods.update(surface.methods)
        # The memories themselves are called: one call in C.
        self.find_rest: Callable[[bytes, bytes], Operation] = lru_cache(REST_MEMO)(self._find_rest)
        self._find_other = lru_cache(GRPC_MEMO)(self._find_unlisted)

    def find_grpc(self, path: bytes) -> Operation:
        """The operation of a gRPC method, by its `:path`.

        Raises:
            Refusal: PERMISSION_DENIED: it is none that may ever be called, because it is not exactly
                `/package.Service/Method`, or belongs to a surface that does not have it (`SessionService/SessionRun`
                runs any part of any graph).
        """
        return self._methods.get(path) or self._find_other(path)

    def probe(self, check: str) -> StatusProbe | None:
        """The probe of this name (`health.check` of a ModelServer); None: it is no surface's."""
        for surface in self._surfaces:
            if surface.probe is not None and surface.probe.check == check:
                return surface.probe
        return None

    def _find_rest(self, method: bytes, target: bytes) -> Operation:
        for surface in self._surfaces:
            operation = surface.find_rest(method, target)
            if operation is not None:
                return operation
        raise Refusal(Reason.BAD_REQUEST, f"Not found: {show_request(method, target)}", http_status=404)

    def _find_unlisted(self, path: bytes) -> Operation:
        match = _PATH.fullmatch(path) if len(path) <= PATH_BYTES else None
        if match is not None:
            service = match[1]
            # gRPC compares case, but no client writes a package of ours in another one by accident.
            package = service.lower().partition(b".")[0]
            for surface in self._surfaces:
                verb = surface.services.get(service)
                if verb is not None:
                    return Operation(verb, path, Call(verb))
                if package in surface.packages:
                    break
            else:
                return Operation(Verb.UNLISTED, path, Call(Verb.UNLISTED))
        raise Refusal(
            Reason.PERMISSION_DENIED,
            "The gRPC method is not allowed for any caller.",
            rule="unknown-method",
        )


SURFACES = Surfaces((TENSORFLOW_SERVING, GRPC_SERVICES))


def surfaces(metrics_paths: Iterable[str]) -> Surfaces:
    """Those of model servers that have their metrics page at one of these paths."""
    paths = frozenset(path.encode() for path in metrics_paths)
    return SURFACES if paths == {METRICS_PATH} else Surfaces((tensorflow_serving(paths), GRPC_SERVICES))
