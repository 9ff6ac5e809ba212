"""Routes: which one a call gets, and what it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.codec.events import Headers
from meshproxy.config.fields import Metadata, Subject, WorkloadSubject
from meshproxy.config.globs import compile_glob, is_literal, specificity
from meshproxy.config.routes import (
    Abort,
    Concurrency,
    Destination,
    Fault,
    Match,
    Mirror,
    ModelRoute,
    RateLimit,
    Retries,
    RouteSpec,
)
from meshproxy.config.servers import Key
from meshproxy.identity.caller import ANONYMOUS, Caller, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.routing.carried_state import CarriedState
from meshproxy.routing.match import Condition
from meshproxy.routing.retry import INBOUND_RETRIES, OUTBOUND_RETRIES
from meshproxy.routing.routes import MEMO_ENTRIES, Direction, Route, Routes, compile_routes
from tests.thorough import tries

GOLD: Headers = ((b"x-tier", b"gold"),)
PRICING = Caller(Workload("spiffe://d/ns/pricing/sa/a", "d", "pricing", "a", 1e12))


def document(name: str, *models: str, **spec: Any) -> ModelRoute:
    return ModelRoute(metadata=Metadata(name), spec=RouteSpec(models=models, **spec))


def compiled(*documents: ModelRoute, direction: Direction = "inbound", timeout: float | None = None) -> Routes:
    return compile_routes(direction, "own" if direction == "inbound" else None, timeout, documents, "d", CarriedState())


def call(*names: str) -> Call:
    return Call(Verb.PREDICT, tuple(ModelRef(name) for name in names))


def match(routes: Routes, *names: str, headers: Headers = (), caller: Caller = ANONYMOUS) -> Route:
    return routes.match(call(*names), headers, caller)


def one(**spec: Any) -> Route:
    """The route of a document with these fields."""
    return match(compiled(document("r", "m", **spec)), "m")


# Which one


def test_without_routes_everything_goes_to_the_base_server() -> None:
    for direction, server in (("inbound", "own"), ("outbound", None)):
        route = match(compiled(direction=direction), "anything")  # type: ignore[arg-type]
        assert (route.name, route.server, route.is_plain) == ("", server, True)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("fraud", "by-name"),
        ("fraud-eu", "by-long-glob"),
        ("fraud-de", "by-short-glob"),
        ("churn", ""),
        ("FRAUD", ""),
        ("fraud\n", "by-short-glob"),
        ("", ""),
    ],
)
def test_a_name_beats_a_glob_and_of_two_globs_the_longer_wins(model: str, expected: str) -> None:
    routes = compiled(
        document("by-short-glob", "fraud*"), document("by-name", "fraud"), document("by-long-glob", "fraud-e*")
    )
    assert match(routes, model).name == expected
    assert match(routes, model).name == expected  # remembered


def test_the_headers_that_a_choice_depends_on_are_known() -> None:
    first = document("a", "m", match=(Match(headers={"x-tier": "gold"}), Match(headers={"x_team": "a"})))
    assert compiled(first, document("b", "m")).headers == {b"x-tier", b"x-team"}
    assert compiled(document("b", "m")).headers == frozenset()


def test_one_route_may_name_many_models() -> None:
    routes = compiled(document("r", "a", "b*", "a"))
    assert [match(routes, name).name for name in ("a", "b1", "c")] == ["r", "r", ""]


def test_a_call_about_the_server_as_a_whole_has_the_default_route() -> None:
    routes = compiled(document("r", "*"))
    assert routes.match(Call(Verb.METRICS), (), ANONYMOUS).name == ""


def test_the_first_of_several_models_decides() -> None:
    routes = compiled(document("r", "a"))
    assert (match(routes, "a", "b").name, match(routes, "b", "a").name) == ("r", "")


def test_the_same_route_is_the_same_object() -> None:
    """What the pipeline compares when a later part of a message names another model."""
    routes = compiled(document("r", "a*", "z"))
    assert match(routes, "a1") is match(routes, "a2") is match(routes, "z")
    assert match(routes, "b") is match(routes, "c")
    assert Route("", "own") != Route("", "own")


def test_names_that_callers_make_up_do_not_pile_up() -> None:
    gold = Match(headers={"x-tier": "gold"})
    routes = compiled(document("r", "a*"), document("gold", "b*", match=(gold,)), document("n", "name"))
    for number in range(2 * MEMO_ENTRIES + 1):
        assert match(routes, f"a{number}").name == "r"
        assert match(routes, f"b{number}").name == ""
        assert len(routes._known) + len(routes._choices) <= MEMO_ENTRIES
    assert match(routes, "name").name == "n"


def test_routes_with_a_match_come_first_in_the_order_of_documents() -> None:
    tier = Match(headers={"x-tier": "gold"})
    routes = compiled(
        document("rest", "m*"),
        document("gold", "m*", match=(tier,)),
        document("pricing", "m*", match=(Match(caller=Subject(workload=WorkloadSubject(namespace="pricing"))), tier)),
    )
    for model in ("m", "m1", "m"):
        assert match(routes, model).name == "rest"
        assert match(routes, model, headers=GOLD).name == "gold"
        assert match(routes, model, headers=GOLD, caller=PRICING).name == "gold"
        assert match(routes, model, caller=PRICING).name == "pricing"
    assert match(routes, "x", headers=GOLD, caller=PRICING).name == ""


def test_what_fits_no_match_falls_to_the_next_pattern() -> None:
    tier = Match(headers={"x-tier": "gold"})
    routes = compiled(
        document("glob", "m*"), document("name", "model", match=(tier,)), document("long", "mod*", match=(tier,))
    )
    assert [match(routes, "model", headers=headers).name for headers in (GOLD, ())] == ["name", "glob"]
    assert [match(routes, "modem", headers=headers).name for headers in (GOLD, ())] == ["long", "glob"]


def test_a_more_specific_route_for_all_beats_a_match() -> None:
    tier = Match(headers={"x-tier": "gold"})
    routes = compiled(document("name", "model"), document("glob", "m*", match=(tier,)))
    assert match(routes, "model", headers=GOLD).name == "name"


def test_a_route_holds_for_its_directions() -> None:
    documents = (
        document("in", "a", directions=("inbound",)),
        document("out", "a", directions=("outbound",)),
        document("both", "b"),
    )
    assert [match(compiled(*documents), name).name for name in "ab"] == ["in", "both"]
    assert [match(compiled(*documents, direction="outbound"), name).name for name in "ab"] == ["out", "both"]


def test_callers_of_outbound_calls_are_not_known() -> None:
    caller = Match(caller=Subject(workload=WorkloadSubject(namespace="pricing")))
    tier = Match(headers={"x-tier": "gold"})
    documents = (document("caller", "a", match=(caller,)), document("either", "b", match=(caller, tier)))
    routes = compiled(*documents, direction="outbound")
    assert match(routes, "a", caller=PRICING).name == ""
    assert match(routes, "b", caller=PRICING).name == ""
    assert match(routes, "b", headers=GOLD).name == "either"
    assert match(compiled(*documents), "a", caller=PRICING).name == "caller"


PATTERNS = st.lists(st.tuples(st.text("ab*?", min_size=1, max_size=4), st.booleans()), max_size=8)


@settings(max_examples=tries(300))
@given(patterns=PATTERNS, name=st.text("ab", max_size=5), is_gold=st.booleans())
def test_of_all_that_fit_the_most_specific_wins(patterns: list[tuple[str, bool]], name: str, is_gold: bool) -> None:
    gold = (Condition(Match(headers={"x-tier": "gold"}), "d"),)
    # One route for all of each pattern, and any number with a match.
    kept = [each for place, each in enumerate(patterns) if each[1] or each not in patterns[:place]]
    routes = Routes(
        Route("default", None),
        [
            (pattern, gold if is_for_gold else (), Route(str(place), None))
            for place, (pattern, is_for_gold) in enumerate(kept)
        ],
    )
    fitting = [
        (specificity(pattern), is_for_gold, -place)
        for place, (pattern, is_for_gold) in enumerate(kept)
        if (pattern == name if is_literal(pattern) else compile_glob(pattern)(name)) and (is_gold or not is_for_gold)
    ]
    expected = str(-max(fitting)[2]) if fitting else "default"
    for _ in range(2):
        assert match(routes, name, headers=GOLD if is_gold else ()).name == expected


# What it says


def test_a_route_without_anything() -> None:
    route = one()
    assert route.is_plain
    assert (route.name, route.server, route.arms, route.total, route.labels) == ("r", "own", (), 0, {})
    assert (route.sticky, route.mirror, route.fault, route.fallback, route.concurrency) == (None,) * 5
    assert (route.timeout, route.try_timeout, route.idle_timeout) == (None,) * 3
    assert (route.rate_limiters, route.counts_examples, route.priority) == ((), False, 1)
    assert not hasattr(route, "__dict__")
    with pytest.raises(LookupError):
        route.arm(call("m"), 0.5)


@pytest.mark.parametrize(
    "spec",
    [
        {"split": (Destination(version="1"),)},
        {"labels": {"a": 1}},
        {"mirror": Mirror(version="1")},
        {"fault": Fault(abort=Abort(percent=1.0))},
        {"rate_limits": (RateLimit(requests=1.0),)},
        {"concurrency": Concurrency()},
    ],
)
def test_what_is_not_plain(spec: dict[str, Any]) -> None:
    assert not one(**spec).is_plain


@pytest.mark.parametrize(
    "spec",
    [
        {"server": "other"},
        {"timeout": 1.0, "try_timeout": 1.0, "idle_timeout": 1.0},
        {"retries": Retries()},
        {"fallback": "other"},
        {"priority": "critical"},
        {"sticky": Key()},
    ],
)
def test_what_is_plain(spec: dict[str, Any]) -> None:
    assert one(**spec).is_plain


def test_fields_are_taken_over() -> None:
    concurrency = Concurrency(limit=3)
    route = one(
        server="other", fallback="third", try_timeout=2.0, idle_timeout=3.0, concurrency=concurrency,
        fault=Fault(abort=Abort(percent=100.0, http_status=500)),
    )  # fmt: skip
    assert route.fallback is not None
    assert (route.server, route.fallback.server, route.try_timeout, route.idle_timeout) == ("other", "third", 2.0, 3.0)
    assert route.concurrency == concurrency
    assert route.fault is not None
    assert route.fault.http_status == 500
    assert [one(priority=word).priority for word in ("critical", "default", "sheddable")] == [0, 1, 2]


def test_the_meshs_timeout_holds_where_a_route_has_none() -> None:
    routes = compiled(document("a", "quick", timeout=2.0), document("b", "usual"), timeout=30.0)
    assert [match(routes, name).timeout for name in ("quick", "usual", "unrouted")] == [2.0, 30.0, 30.0]


def test_where_arms_lead() -> None:
    split = (
        Destination(),
        Destination(server="other", version="2"),
        Destination(label="new"),
        Destination(label="old"),
    )
    for server, own in ((None, "own"), ("mine", "mine")):
        arms = one(server=server, split=split, labels={"new": "9"}).arms
        assert [(arm.server, arm.version, arm.label) for arm in arms] == [
            (own, None, None),
            ("other", "2", None),
            (own, "9", None),
            (own, None, "old"),
        ]
    (outbound,) = match(compiled(document("r", "m", split=(Destination(),)), direction="outbound"), "m").arms
    assert outbound.server is None


def test_a_split_is_by_weight_and_its_version_is_written_into_calls_that_name_none() -> None:
    route = one(split=(Destination(weight=9, version="1"), Destination(weight=1, version="2")), labels={"canary": "2"})
    assert route.total == 10
    arms = [route.arm(call("m"), step / 10) for step in range(10)]
    assert [arm.version for arm in arms] == ["1"] * 9 + ["2"]
    assert route.forwarded(call("m"), arms[9]).models == (ModelRef("m", "2"),)
    pinned = Call(Verb.PREDICT, (ModelRef("m", "5"),))
    assert route.forwarded(pinned, route.arm(pinned, 0.0)) is pinned
    labelled = Call(Verb.PREDICT, (ModelRef("m", None, "canary"),))
    assert route.forwarded(labelled, arms[0]).models == (ModelRef("m", "2"),)
    assert route.forwarded(labelled, None).models == (ModelRef("m", "2"),)


def test_a_key_is_for_a_choice() -> None:
    two = (Destination(version="1"), Destination(version="2"))
    key = Key(by="header", header="x-user")
    assert one(split=two, sticky=key).sticky == key
    assert one(split=two).sticky is None
    assert one(split=(Destination(version="1"), Destination(weight=0)), sticky=key).sticky is None
    assert one(sticky=key).sticky is None


def test_a_mirrors_label_is_one_of_the_routes() -> None:
    route = one(mirror=Mirror(label="next", percent=5.0), labels={"next": "4"})
    assert route.mirror == Mirror(version="4", percent=5.0)
    assert route.mirrored(Call(Verb.PREDICT, (ModelRef("m", "1"),))).models == (ModelRef("m", "4"),)
    assert one(mirror=Mirror(label="next")).mirrored(call("m")).models == (ModelRef("m", None, "next"),)
    plain = call("m")
    assert one(mirror=Mirror(server="other")).mirrored(plain) is plain
    assert one().mirrored(plain) is plain


def test_retries_by_direction_and_by_document() -> None:
    mine = document("mine", "a", retries=Retries(attempts=7))
    for direction, usual in (("inbound", INBOUND_RETRIES), ("outbound", OUTBOUND_RETRIES)):
        routes = compiled(mine, document("usual", "b"), direction=direction)  # type: ignore[arg-type]
        assert match(routes, "a").retry.attempts == 7
        assert match(routes, "b").retry is match(routes, "c").retry is usual


def test_a_budget_is_that_of_the_document() -> None:
    route = one(retries=Retries(budget_ratio=0.0, budget_min=2.0))
    assert [route.budget.withdraw(100.0) for _ in range(3)] == [True, True, False]


def test_quotas_are_those_of_the_document() -> None:
    route = one(rate_limits=(RateLimit(requests=1.0), RateLimit(per="caller", examples=5.0)))
    assert len(route.rate_limiters) == 2
    assert route.counts_examples
    assert not one(rate_limits=(RateLimit(bytes=10),)).counts_examples
    assert route.rate_limiters[0].admit("m", "", 100.0) is None
    assert route.rate_limiters[0].admit("m", "", 100.0) is not None


def test_budgets_and_quotas_live_on_and_directions_do_not_share_them() -> None:
    carried = CarriedState()
    routes = (document("a", "a", rate_limits=(RateLimit(requests=1.0),)),)

    def state() -> list[object]:
        found: list[object] = []
        for direction in ("inbound", "outbound"):
            compiled = compile_routes(direction, None, None, routes, "d", carried)
            for name in ("a", "b"):
                route = match(compiled, name)
                found += [route.budget, *route.rate_limiters]
        carried.adopt()
        return found

    first, second = state(), state()
    assert all(one is two for one, two in zip(first, second, strict=True))
    assert len({id(each) for each in first}) == 6
