"""Fakes are only worth something while they look like what they stand for: each is compared with it here."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from collections.abc import Callable

import pytest

from meshproxy.proxy.attempt import AnswerSink, AttemptListener
from meshproxy.proxy.client_side import ClientSide
from meshproxy.proxy.ports import Decides, Tracer, Traffic, Verifies
from meshproxy.proxy.request import Request
from meshproxy.transport.client import StreamSource
from meshproxy.transport.stream import Downstream, Upstream
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.endpoint import Endpoint
from meshproxy.upstream.pool import H1Pool, H2Pool, Pool
from tests.proxy.fakes import (
    FakeCluster,
    FakeDownstream,
    FakeEndpoint,
    FakeLoop,
    FakePolicy,
    FakePool,
    FakeTimer,
    FakeTracer,
    FakeTraffic,
    FakeUpstream,
    FakeVerifier,
    RecordedListener,
    RecordedRequest,
    RecordedSink,
    Surroundings,
)

PAIRS: list[tuple[object, type]] = [
    (FakeTimer(1.0, int), asyncio.TimerHandle),
    (FakeLoop(), asyncio.AbstractEventLoop),
    (FakeDownstream(), Downstream),
    (FakeUpstream(), Upstream),
    (FakePool(), Pool),
    (FakePool(), H1Pool),
    (FakePool(), H2Pool),
    (FakeEndpoint(), Endpoint),
    (FakeCluster(), Cluster),
    (FakePolicy(), Decides),
    (FakeVerifier(), Verifies),
    (FakeTracer(), Tracer),
    (FakeTraffic(), Traffic),
    (RecordedSink(), AnswerSink),
    (RecordedListener(), AttemptListener),
]
PROTOCOLS = [pair for pair in PAIRS if getattr(pair[1], "_is_protocol", False)]

each_pair = pytest.mark.parametrize(
    ("fake", "real"), PAIRS, ids=[f"{type(fake).__name__}-{real.__name__}" for fake, real in PAIRS]
)


def public(names: set[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def names_of(kind: type) -> set[str]:
    """The public methods and attributes of a class: what it and its bases define, declare, and set in `__init__`."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is object or base.__module__ == "typing":
            continue
        names |= set(vars(base)) | set(vars(base).get("__annotations__", ()))
        init = vars(base).get("__init__")
        if inspect.isfunction(init):
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(init)))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    names.add(node.attr)
    return public(names)


def names_for_proxy(fake: object) -> set[str]:
    """What of a fake stands for the real class: all that is public and not for tests."""
    own = set(vars(fake)) | {name for base in type(fake).__mro__[:-1] for name in vars(base)}
    return public(own) - {"FOR_TESTS"} - for_tests(fake)


def for_tests(fake: object) -> frozenset[str]:
    names = type(fake).FOR_TESTS  # type: ignore[attr-defined]
    assert isinstance(names, frozenset)
    return names


def shape(method: Callable[..., object]) -> list[tuple[str, object, object]]:
    """Names, kinds and defaults of the parameters."""
    parameters = inspect.signature(method).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters if each.name != "self"]


@each_pair
def test_what_a_fake_has_the_real_one_has(fake: object, real: type) -> None:
    assert names_for_proxy(fake) - names_of(real) == set()


@each_pair
def test_what_is_for_tests_the_real_one_does_not_have(fake: object, real: type) -> None:
    """Or production code that comes to use it would find something else in tests."""
    assert for_tests(fake) & names_of(real) == set()
    assert for_tests(fake) - set(dir(fake)) == set()


@each_pair
def test_methods_have_the_same_parameters(fake: object, real: type) -> None:
    compared = 0
    for name in names_for_proxy(fake):
        ours, theirs = inspect.getattr_static(type(fake), name, None), inspect.getattr_static(real, name, None)
        assert inspect.isfunction(ours) == inspect.isfunction(theirs), name
        if inspect.isfunction(ours) and inspect.isfunction(theirs):
            assert shape(ours) == shape(theirs), name
            compared += 1
    assert compared


@pytest.mark.parametrize(
    ("fake", "protocol"), PROTOCOLS, ids=[f"{type(fake).__name__}-{real.__name__}" for fake, real in PROTOCOLS]
)
def test_a_protocol_is_fulfilled(fake: object, protocol: type) -> None:
    assert names_of(protocol) - names_for_proxy(fake) == set()


def test_every_fake_is_compared() -> None:
    from tests.proxy import fakes

    made = {
        kind for _, kind in inspect.getmembers(fakes, inspect.isclass) if kind.__module__ == fakes.__name__
    }  # fmt: skip
    assert made - {type(fake) for fake, _ in PAIRS} == {RecordedRequest, Surroundings}


def test_a_recorded_request_has_every_hook_and_nothing_else_of_its_own() -> None:
    hooks = {
        name
        for base in (ClientSide, Request)
        for name, member in vars(base).items()
        if inspect.isfunction(member) and "NotImplementedError" in member.__code__.co_names
    }
    overridden = {name for name, member in vars(RecordedRequest).items() if inspect.isfunction(member)} - {"__init__"}
    assert overridden == hooks
    for name in hooks:
        assert shape(getattr(RecordedRequest, name)) == shape(getattr(Request, name)), name


def test_protocols_are_fulfilled_for_mypy() -> None:
    """What these lines say is checked by `mypy --strict`."""
    downstream: Downstream = FakeDownstream()
    upstream: Upstream = FakeUpstream()
    source: StreamSource = FakePool()
    policy: Decides = FakePolicy()
    verifier: Verifies = FakeVerifier()
    tracer: Tracer = FakeTracer()
    traffic: Traffic = FakeTraffic()
    sink: AnswerSink = RecordedSink()
    listener: AttemptListener = RecordedListener()
    assert all((downstream, upstream, source, policy, verifier, tracer, traffic, sink, listener))


class Real:
    """What `Fake` stands for."""

    def __init__(self) -> None:
        self.attribute = 1

    def method(self, one: int, two: int = 2, *, three: int) -> None: ...


class TestTheComparison:
    """It fails where it must."""

    @pytest.mark.parametrize(
        "method",
        [
            lambda self, one, two=2: None,
            lambda self, one, two, *, three: None,
            lambda self, one, zwei=2, *, three: None,
            lambda self, one, two=2, three=3: None,
            lambda self, one, two=2, *, three=3: None,
        ],
    )
    def test_parameters_that_differ(self, method: Callable[..., object]) -> None:
        fake = type("Fake", (), {"method": method, "FOR_TESTS": frozenset()})()
        with pytest.raises(AssertionError):
            test_methods_have_the_same_parameters(fake, Real)

    def test_names_that_the_real_one_does_not_have(self) -> None:
        fake = type("Fake", (), {"other": Real.method, "FOR_TESTS": frozenset()})()
        with pytest.raises(AssertionError):
            test_what_a_fake_has_the_real_one_has(fake, Real)

    def test_names_for_tests_that_the_real_one_has(self) -> None:
        fake = type("Fake", (), {"attribute": 1, "FOR_TESTS": frozenset({"attribute"})})()
        with pytest.raises(AssertionError):
            test_what_is_for_tests_the_real_one_does_not_have(fake, Real)

    def test_one_that_is_the_same(self) -> None:
        fake = type("Fake", (), {"attribute": 1, "method": Real.method, "FOR_TESTS": frozenset()})()
        test_what_a_fake_has_the_real_one_has(fake, Real)
        test_what_is_for_tests_the_real_one_does_not_have(fake, Real)
        test_methods_have_the_same_parameters(fake, Real)
