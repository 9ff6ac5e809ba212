"""`ModelRoute`: what a struct by itself knows to be wrong, what it takes, and its words."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest

from meshproxy.config import fields, routes, servers
from meshproxy.refusal import GrpcStatus
from meshproxy.routing.failure import Failure

WORKLOAD = {"namespace": "a", "serviceAccount": "b"}


def test_what_is_tried_again_are_failures() -> None:
    """All of them but those that are never tried again."""
    never = {Failure.ERROR, Failure.OVERLOADED, Failure.STATUS}  # the last has fields of its own
    assert set(get_args(routes.RetryWord)) == {failure.value for failure in Failure if failure not in never}


def test_a_fault_can_be_every_status_but_ok() -> None:
    assert get_args(routes.GrpcStatusWord) == tuple(status.name for status in GrpcStatus if status)


def test_defaults_pass_their_own_bounds() -> None:
    for struct in (routes.Retries, routes.Compare, routes.Concurrency):
        assert msgspec.convert(msgspec.to_builtins(struct()), struct) == struct()


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (routes.Match, {}),
        (routes.Match, {"headers": {}}),
        (routes.Destination, {"version": 1, "label": "a"}),
        (routes.Retries, {"backoff": 2, "backoffMax": 1}),
        (routes.Retries, {"attempts": 11}),
        (routes.Mirror, {}),
        (routes.Fallback, {}),
        (routes.Fallback, {"model": "m", "version": "1", "label": "a"}),
        (routes.Mirror, {"percent": 50}),
        (routes.Mirror, {"version": 1, "label": "a"}),
        (routes.Fault, {}),
        (routes.Concurrency, {"initial": 1}),
        (routes.Concurrency, {"max": 8}),
        (routes.Concurrency, {"queue": -1}),
        (routes.RateLimit, {}),
        (routes.RateLimit, {"per": "caller", "burst": 2}),
        (routes.RateLimit, {"bytes": 0}),
        (routes.RouteSpec, {"models": []}),
        (routes.RouteSpec, {"models": ["a"], "directions": []}),
        (routes.RouteSpec, {"models": ["a"], "split": [{"weight": 0}, {"weight": 0, "version": 1}]}),
    ],
)
def test_what_a_struct_knows_to_be_wrong(kind: type[Any], given: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(given, kind)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (routes.Match, {"headers": {"a": "b"}}),
        (routes.Match, {"caller": {"workload": WORKLOAD}}),
        (routes.Destination, {}),
        (routes.Mirror, {"label": "a"}),
        (routes.Fault, {"abort": {"percent": 1}}),
        (routes.Concurrency, {"limit": 1}),
        (routes.RateLimit, {"bytes": 1 << 30}),
        (routes.RouteSpec, {"models": ["a"], "split": [{"weight": 0}, {"version": "1"}]}),
    ],
)
def test_what_a_struct_takes(kind: type[Any], given: dict[str, Any]) -> None:
    assert isinstance(msgspec.convert(given, kind), kind)


def test_every_field_can_be_sent_to_another_process() -> None:
    subject = fields.Subject(workload=fields.WorkloadSubject(namespace="a"))
    route = routes.RouteSpec(
        models=("a",),
        match=(routes.Match(headers={"x-a": "b"}, caller=subject),),
        split=(routes.Destination(version="1"), routes.Destination(label="c")),
        labels={"c": "2"},
        sticky=servers.Key(),
        mirror=routes.Mirror(version="3", compare=routes.Compare()),
        fault=routes.Fault(delay=routes.Delay(percent=1.0, duration=1.0), abort=routes.Abort(percent=1.0)),
        retries=routes.Retries(hedge_after=0.1),
        concurrency=routes.Concurrency(),
        rate_limits=(routes.RateLimit(requests=1.0),),
    )
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(route), type=routes.RouteSpec) == route
