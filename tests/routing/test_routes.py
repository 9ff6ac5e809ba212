from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.globs import compile_glob, is_literal, specificity
from meshproxy.config.schema import Metadata, ModelRoute, RouteSpec
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.routing.routes import MEMO_ENTRIES, Route, Routes, compile_routes


def route(*models: str, server: str = "other", timeout: float | None = None) -> ModelRoute:
    return ModelRoute(metadata=Metadata("route"), spec=RouteSpec(models=models, server=server, timeout=timeout))


def call(*names: str) -> Call:
    return Call(Verb.PREDICT, tuple(ModelRef(name) for name in names))


def server(routes: Routes, *names: str) -> str:
    return routes.match(call(*names)).server


def test_without_routes_everything_goes_to_the_sidecars_own_server() -> None:
    routes = compile_routes("own", None, ())
    assert routes.match(call("anything")) == Route("own", None)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("fraud", "by-name"),
        ("fraud-eu", "by-long-glob"),
        ("fraud-de", "by-short-glob"),
        ("churn", "own"),
        ("FRAUD", "own"),
        ("fraud\n", "by-short-glob"),
        ("", "own"),
    ],
)
def test_a_name_beats_a_glob_and_of_two_globs_the_longer_wins(model: str, expected: str) -> None:
    routes = compile_routes(
        "own",
        None,
        (
            route("fraud*", server="by-short-glob"),
            route("fraud", server="by-name"),
            route("fraud-e*", server="by-long-glob"),
        ),
    )
    assert server(routes, model) == expected
    assert server(routes, model) == expected  # remembered


def test_one_route_may_name_many_models() -> None:
    routes = compile_routes("own", None, (route("a", "b*"),))
    assert [server(routes, name) for name in ("a", "b1", "c")] == ["other", "other", "own"]


def test_the_meshs_timeout_holds_where_a_route_has_none() -> None:
    routes = compile_routes("own", 30.0, (route("quick", timeout=2.0), route("usual")))
    assert [routes.match(call(name)).timeout for name in ("quick", "usual", "unrouted")] == [2.0, 30.0, 30.0]


def test_a_call_about_the_server_as_a_whole_goes_to_the_sidecars_own() -> None:
    routes = compile_routes("own", None, (route("*"),))
    assert routes.match(Call(Verb.METRICS)).server == "own"


def test_the_first_of_several_models_decides() -> None:
    routes = compile_routes("own", None, (route("a"),))
    assert (server(routes, "a", "b"), server(routes, "b", "a")) == ("other", "own")


def test_the_same_route_is_the_same_object() -> None:
    """What the pipeline compares when a later part of a message names another model."""
    routes = compile_routes("own", None, (route("a*"),))
    assert routes.match(call("a1")) is routes.match(call("a2"))
    assert routes.match(call("b")) is routes.match(call("c"))


def test_names_that_callers_make_up_do_not_pile_up() -> None:
    routes = compile_routes("own", None, (route("a*"),))
    for number in range(2 * MEMO_ENTRIES + 1):
        assert server(routes, f"a{number}") == "other"
        assert len(routes._known) <= MEMO_ENTRIES


PATTERNS = st.lists(st.text("ab*?", min_size=1, max_size=4), max_size=6, unique=True)


@settings(max_examples=200)
@given(patterns=PATTERNS, name=st.text("ab", max_size=5))
def test_of_all_patterns_that_fit_the_most_specific_wins(patterns: list[str], name: str) -> None:
    routes = Routes(Route("own"), [(pattern, Route(pattern)) for pattern in patterns])
    fitting = [p for p in patterns if (p == name if is_literal(p) else compile_glob(p)(name))]
    expected = max(fitting, key=specificity) if fitting else "own"
    assert server(routes, name) == expected
