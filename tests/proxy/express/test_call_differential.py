"""The same script of gRPC calls with and without the express lane comes to the same: frames of each stream to both
sides, records, logs, spans, metrics, and what is left afterwards, down to the windows and counts of both codecs.

`MESHPROXY_EXAMPLES=100000 pytest tests/proxy/express/test_call_differential.py` plays as many random scripts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from meshproxy.codec.h2 import frames
from meshproxy.codec.limits import Limits
from meshproxy.proxy.express_outcome import Outcome
from tests.proxy.express.call_rig import GRPC, CallRig, TwoServersRig, message, response, split_frames
from tests.proxy.express.test_differential import TRACE, Health, cut, difference

Step = tuple[str, Any]
EXAMPLES = int(os.environ.get("MESHPROXY_EXAMPLES", "0")) or 20


def do(rig: CallRig, step: Step) -> None:
    """Let it happen."""
    what, how = step
    match what:
        case "call":
            rig.ask(rig.request(**how))
        case "calls":  # in one read
            rig.ask(b"".join([rig.request(**each) for each in how]))
        case "call in pieces":
            asks, places = how
            rig.ask(*cut(rig.request(**asks), *places))
        case "interleaved":  # heads first
            several = [split_frames(rig.request(**each)) for each in how]
            rig.ask(b"".join([frame for number in range(9) for each in several for frame in each[number : number + 1]]))
        case "frame":  # between head and body
            asks, frame = how
            head, *rest = split_frames(rig.request(**asks)) or [b""]
            stream = int.from_bytes(head[5:9], "big")
            rig.ask(head + frame(stream) + b"".join(rest))
        case "changed":  # other octets
            asks, change = how
            data = rig.request(**asks)
            rig.ask(change(data) if data else b"")
        case "raw":
            rig.ask(how)
        case "cancel":
            for stream in sorted(rig.caller._streams)[:1]:
                rig.caller.reset(stream, 8)
            rig.ask(rig.caller.take_output())
        case "call and cancel":  # in one read
            written = rig.request(**how)
            rig.caller.reset(max(rig.caller._streams, default=0), 8)
            rig.ask(written + rig.caller.take_output())
        case "answer":
            number, data = rig.reply(**how)
            rig.say(number, data)
        case "answers":  # in one read
            replies = [rig.reply(**each) for each in how]
            for number in sorted({number for number, _ in replies}):
                rig.say(number, b"".join([data for which, data in replies if which == number]))
        case "answer in pieces":
            answers, places = how
            number, data = rig.reply(**answers)
            rig.say(number, *cut(data, *places))
        case "raw answer":
            rig.say(0, how(rig.asked_models[0][1] if rig.asked_models else 1))
            rig.asked_models[:1] = []
        case "go away":
            rig.models[0].go_away(0, "", final=how)
            rig.say(0, rig.models[0].take_output())
        case "grow":
            rig.settle()
        case "wait":
            rig.wait(how)
        case "hang up":
            client = next((each for each in rig.clients if not each.transport.is_closing()), None)
            if client is not None:
                rig._end(client, how)
        case "leave":
            rig.leave(is_eof=how)
        case "drain":
            rig.server.drain(how)
            rig.turn()
        case "reload":
            rig.pipeline.snapshot = rig.snapshot()
        case "close lane":
            rig.pipeline.snapshot = rig.snapshot(is_express=False)
        case "withdraw":
            rig.verifier.is_withdrawn = how
        case "deny":
            rig.policy.permits = lambda call: False
            rig.pipeline.snapshot = rig.snapshot()
        case "pause":
            (rig.server.pause_writing if how else rig.server.resume_writing)()
            rig.turn()
        case "pause upstream":
            for client in rig.clients:
                (client.pause_writing if how else client.resume_writing)()
            rig.turn()
        case "endpoint":
            rig.endpoint.health = Health(is_good=how)  # type: ignore[assignment]
        case "close pool":
            rig.pool.close()
        case _:
            raise AssertionError(what)


def play(script: list[Step], *, settles: bool = True, kind: type[CallRig] = CallRig, **settings: Any) -> CallRig:
    """The script with the lane; it must have led to what it leads to without, after each step."""
    lane, ordinary = kind(is_express=True, **settings), kind(is_express=False, **settings)
    for number, step in enumerate(script):
        for rig in (lane, ordinary):
            do(rig, step)
            if settles:
                rig.settle()
        with_lane, without = lane.seen(), ordinary.seen()
        for name, value in without.items():
            if with_lane[name] != value:
                pytest.fail(f"after step {number}, {step}: {name}: {difference(with_lane[name], value)}")
    assert difference(lane.page, ordinary.page) == ""
    assert not ordinary.outcomes
    return lane


def call(number: int, **changes: Any) -> dict[str, Any]:
    """One that differs from others in length, request id, trace and time limit."""
    usual = {
        "body": message(filler=b"x" * (number % 7)),
        "request_id": b"id-%d" % number,
        "trace": TRACE % (number + 1, number % 2),
        "timeout": b"%dm" % (9_000 + number),
    }
    return {**usual, **changes}


def exchange(number: int, **changes: Any) -> list[Step]:
    """One that goes well."""
    return [("call", call(number, **changes)), ("answer", {"body": response(1, b"y" * (number % 5))})]


WARM = [step for number in range(5) for step in exchange(number)]


@pytest.mark.parametrize("audits", [False, True])
@pytest.mark.parametrize("records", [False, True])
def test_what_goes_well_rides(audits: bool, records: bool) -> None:
    lane = play(WARM + [step for number in range(10, 15) for step in exchange(number)], audits=audits, records=records)
    assert lane.count(Outcome.CARRIED) >= 5, lane.outcomes
    assert len(lane.spans.recorded) == (10 if records else 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": None},
        {"trace": None},
        {"timeout": None},
        {"timeout": b"soon"},
        {"token": None},
        {"trace": None, "request_id": None, "timeout": None},
        {"more": ((b"tracestate", b"a=b"), (b"x-other", b"1"))},
        {"body": message(b"open-other")},
        {"body": message(filler=b"z" * 100) + message(filler=b"z")},
        {"more": ((b"grpc-encoding", b"identity"),)},
    ],
)
def test_calls_of_many_kinds_ride(changes: dict[str, Any]) -> None:
    lane = play([step for number in range(12) for step in exchange(number, **changes)])
    assert lane.count(Outcome.CARRIED) >= 5, lane.outcomes


def test_calls_of_clients_that_put_every_field_into_the_table_ride() -> None:
    lane = play([step for number in range(20) for step in exchange(number)], indexes=True)
    assert lane.count(Outcome.CARRIED) >= 14, lane.outcomes


@pytest.mark.parametrize("indexes", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"body": b""},
        {"body": message(b"closed")},
        {"body": message(filler=b"abc")[:-1]},
        {"body": b"\1" + message()[1:]},
        {"token": b"bad"},
        {"path": b"/tensorflow.serving.PredictionService/Nothing"},
        {"timeout": b"400m"},
        {"trace": b"rubbish"},
        {"more": ((b"x-request-id", b"twice"),)},
        {"more": ((b"grpc-timeout", b"9S"),)},
        {"more": ((b"traceparent", TRACE % (1, 1)),)},
        {"more": ((b"authorization", b"Bearer good"),)},
        {"trailers": ((b"x", b"y"),)},
    ],
)
def test_what_is_refused_or_is_not_alike_does_not_ride(changes: dict[str, Any], indexes: bool) -> None:
    lane = play([step for number in range(9) for step in exchange(number, **changes)], indexes=indexes)
    assert lane.count(Outcome.CARRIED) == 0, lane.outcomes


def test_a_model_that_no_plan_is_for_is_decided_about() -> None:
    """In heads of one shape the model may change: it is read in each body."""
    lane = play(
        [
            *WARM,
            *exchange(10),
            *exchange(11, body=message(b"closed")),
            *exchange(12, body=message(b"open") + message(b"closed")),
            *exchange(13, body=message(b"open", more=b"\x0a\x08\x0a\x06closed")),
            *exchange(14, body=message(b"openb")),
            *exchange(15),
        ]
    )
    assert lane.count(Outcome.CARRIED) == 2 + WARM_RIDES, lane.outcomes
    assert lane.count(Outcome.MODEL) == 4
    assert [log.count(b"PERMISSION_DENIED") for log in lane.log.lines].count(1) >= 2


WARM_RIDES = 0
"""Of those five, the last one finds a plan, and its answer none."""


@pytest.mark.parametrize(
    "answer",
    [
        {"body": response(2)},
        {"body": response(None)},
        {"body": response(1, b"y" * 100)},
        {"body": response(1), "head": (*GRPC, (b"server", b"tfs"))},
        {"body": response(1), "head": (*GRPC, (b"x-meshproxy-caller", b"me"))},
        {"body": response(1), "end": ((b"grpc-status", b"0"), (b"grpc-message", b"fine %"), (b"x", b"y"))},
    ],
)
def test_answers_of_many_kinds_ride(answer: dict[str, Any]) -> None:
    lane = play([*WARM, *[step for number in range(5) for step in (exchange(number)[0], ("answer", answer))]])
    assert lane.count(Outcome.CARRIED) >= 4, lane.outcomes


@pytest.mark.parametrize(
    "answer",
    [
        {"body": b""},
        {"body": b"", "end": ((b"grpc-status", b"7"), (b"grpc-message", b"no"))},
        {"body": response(1), "end": ((b"grpc-status", b"13"),)},
        {"body": response(1), "end": ((b"grpc-status", b"14"),)},
        {"body": response(1), "end": ((b"x", b"y"),)},
        {"body": response(1), "end": ((b"grpc-status", b"0"), (b"x-meshproxy-refusal", b"internal"))},
        {"body": response(1), "status": 404},
        {"body": response(1), "status": 503},
        {"body": response(1, b"y" * 120), "parts": 3},
    ],
)
def test_other_answers_unfold(answer: dict[str, Any]) -> None:
    lane = play([*WARM, exchange(9)[0], ("answer", answer), ("answer", answer), *exchange(10), *exchange(11)])
    assert lane.count(Outcome.ANSWER) >= 1 or lane.count(Outcome.CARRIED) >= 4, lane.outcomes


WHOLE = {"body": response(1)}


def pushed(kind: int, flags: int, payload: bytes) -> Callable[[int], bytes]:
    return lambda stream: frames.frame(kind, flags, stream, payload)


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([("answer in pieces", (WHOLE, (3,)))], Outcome.ANSWER),
        ([("answer in pieces", (WHOLE, (40,)))], Outcome.ANSWER),
        ([("cancel", None), *exchange(10)], Outcome.CLIENT),
        ([("cancel", None), ("answer", WHOLE), *exchange(10)], Outcome.CLIENT),
        ([("hang up", True), ("answer", WHOLE), *exchange(10)], Outcome.UPSTREAM),
        ([("hang up", False), ("answer", WHOLE), *exchange(10)], Outcome.UPSTREAM),
        ([("leave", True)], Outcome.CLIENT),
        ([("leave", False)], Outcome.CLIENT),
        ([("wait", 1.4), ("answer", WHOLE), *exchange(10)], Outcome.CARRIED),
        ([("wait", 3.0), ("answer", WHOLE), *exchange(10)], Outcome.TIME),
        ([("wait", 61.0), *exchange(10)], Outcome.TIME),
        ([("drain", 0.0), ("wait", 1.0), ("answer", WHOLE), *exchange(10)], Outcome.CARRIED),
        ([("drain", 5.0), ("answer", WHOLE), *exchange(10), ("wait", 6.0), *exchange(11)], Outcome.LEAVING),
        ([("reload", None), ("answer", WHOLE), *exchange(10)], Outcome.RELOADED),
        ([("close lane", None), ("answer", WHOLE), *exchange(10)], Outcome.RELOADED),
        ([("go away", False), ("answer", WHOLE), *exchange(10)], Outcome.CARRIED),
        ([("go away", True), ("answer", WHOLE), *exchange(10)], Outcome.CARRIED),
        ([("close pool", None), ("answer", WHOLE)], Outcome.CARRIED),
        ([("pause", True), ("answer", WHOLE), ("pause", False), *exchange(10)], Outcome.CLIENT),
        ([("pause upstream", True), *exchange(10), ("pause upstream", False), *exchange(11)], Outcome.BUSY),
        ([("raw answer", pushed(frames.RST_STREAM, 0, b"\0\0\0\x08")), *exchange(10)], Outcome.UPSTREAM),
        ([("raw answer", pushed(frames.RST_STREAM, 0, b"\0\0\0\x07")), ("answer", WHOLE)], Outcome.UPSTREAM),
        ([("raw answer", pushed(frames.DATA, 1, b"x")), ("answer", WHOLE)], Outcome.UPSTREAM),
        ([("raw answer", pushed(frames.HEADERS, 4, b"\x80")), ("answer", WHOLE)], Outcome.UPSTREAM),
    ],
)
def test_what_happens_to_a_ride(steps: list[Step], outcome: Outcome) -> None:
    lane = play([*WARM, exchange(9)[0], *steps])
    assert lane.count(outcome) >= 1, lane.outcomes


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([("wait", 71.0)], Outcome.CALLER),
        ([("withdraw", True)], Outcome.CALLER),
        ([("reload", None)], Outcome.CHANGED),
        ([("close lane", None)], Outcome.CHANGED),
        ([("deny", None)], Outcome.CHANGED),
        ([("endpoint", False)], Outcome.ENDPOINT),
        ([("drain", 0.0)], Outcome.LEAVING),
    ],
)
def test_what_keeps_a_call_from_riding(steps: list[Step], outcome: Outcome) -> None:
    lane = play([*WARM, *steps, *exchange(10), *exchange(11)], timeout=600.0)
    assert lane.count(outcome) >= 1 or not lane.server.streams, lane.outcomes


def padded(data: bytes) -> bytes:
    """Both frames with padding."""
    found = []
    for frame in split_frames(data):
        payload = b"\x05" + frame[9:] + b"\0" * 5
        found.append(len(payload).to_bytes(3, "big") + frame[3:4] + bytes((frame[4] | 8,)) + frame[5:9] + payload)
    return b"".join(found)


def prioritised(data: bytes) -> bytes:
    head, *rest = split_frames(data)
    payload = b"\0\0\0\0\x10" + head[9:]
    return b"".join((len(payload).to_bytes(3, "big"), head[3:4], bytes((head[4] | 0x20,)), head[5:9], payload, *rest))


def continued(data: bytes) -> bytes:
    head, *rest = split_frames(data)
    block, stream = head[9:], int.from_bytes(head[5:9], "big")
    return b"".join(
        (
            frames.frame(frames.HEADERS, 0, stream, block[:10]),
            frames.frame(frames.CONTINUATION, 0, stream, block[10:20]),
            frames.frame(frames.CONTINUATION, 4, stream, block[20:]),
            *rest,
        )
    )


CALLS = [call(number) for number in range(20, 24)]


@pytest.mark.parametrize(
    ("steps", "rides"),
    [
        ([("calls", CALLS), ("answers", [WHOLE] * 4)], 4),
        ([("calls", CALLS), ("answers", [{**WHOLE, "which": 2}, {**WHOLE, "which": 1}, WHOLE, WHOLE])], 4),
        ([("calls", [call(20), call(21, body=message(b"closed")), call(22)]), ("answers", [WHOLE] * 2)], 2),
        ([("interleaved", CALLS), ("answers", [WHOLE] * 4)], 0),
        ([("frame", (call(20), pushed(frames.WINDOW_UPDATE, 0, b"\0\0\0\5"))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), lambda _: frames.window_update(0, 5))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), lambda _: frames.ping(b"12345678", ack=False))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), lambda _: frames.settings([(4, 70_000)]))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), pushed(frames.PRIORITY, 0, b"\0\0\0\0\1"))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), pushed(frames.RST_STREAM, 0, b"\0\0\0\x08"))), ("answer", WHOLE)], 0),
        ([("frame", (call(20), lambda _: frames.goaway(0, 0, ""))), ("answer", WHOLE)], 0),
        ([("frame", (call(20), pushed(0xFA, 0, b"grease"))), ("answer", WHOLE)], 1),
        ([("frame", (call(20), pushed(frames.DATA, 0, b""))), ("answer", WHOLE)], 1),
        ([("call and cancel", call(20)), *exchange(21)], 1),
        ([("changed", (call(20), padded)), ("answer", WHOLE)], 1),
        ([("changed", (call(20), prioritised)), ("answer", WHOLE)], 1),
        ([("changed", (call(20), continued)), ("answer", WHOLE)], 1),
        ([("call in pieces", (call(20), (5,))), ("answer", WHOLE)], 1),
        ([("call in pieces", (call(20), (245,))), ("answer", WHOLE)], 0),
        ([("call", call(20, parts=3)), ("answer", WHOLE)], 1),
        ([("call", call(20, body=message(filler=b"x" * 16_380) * 2)), ("answer", WHOLE)], 0),
        ([("raw", b"\0\0\0\x77\0\0\0\0\0"), *exchange(20)], 1),
    ],
)
def test_how_frames_come(steps: list[Step], rides: int) -> None:
    lane = play([*WARM, *steps, *exchange(30)])
    assert lane.count(Outcome.CARRIED) == rides + 1, lane.outcomes


@pytest.mark.parametrize(
    "limits",
    [
        {"limits": Limits(stream_window=20)},
        {"limits": Limits(connection_window=65_535, stream_window=40)},
        {"limits": Limits(streams=2)},
        {"limits": Limits(header_bytes=150)},
        {"model_limits": Limits(stream_window=20)},
        {"model_limits": Limits(streams=1)},
        {"model_limits": Limits(header_bytes=260)},
        {"model_limits": Limits(header_bytes=700)},
    ],
)
def test_peers_that_take_little(limits: dict[str, Any]) -> None:
    script = [*WARM, *exchange(9), ("calls", CALLS), ("answers", [WHOLE] * 4), ("answer", WHOLE), *exchange(30)]
    play(script, **limits)


@pytest.mark.parametrize("records", [False, True])
def test_two_servers_are_balanced_as_ever(records: bool) -> None:
    many = [("calls", [call(number + 4 * more) for number in range(4)]) for more in range(5, 9)]
    script = [step for several in many for step in (several, ("answers", [WHOLE] * 3), ("answer", WHOLE))]
    failed = {**WHOLE, "end": ((b"grpc-status", b"14"),)}
    lane = play(
        [*WARM, *WARM, *script, exchange(9)[0], ("answer", failed), ("answer", failed), *script],
        records=records,
        kind=TwoServersRig,
    )
    assert (lane.count(Outcome.CARRIED) > 20) is not records, lane.outcomes
    assert all(b"Predict" in wire.written for wire in lane.wires[::2])


def test_windows_that_are_used_up_and_extended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credit of rides is returned, on both sides."""
    small = Limits(connection_window=65_536, stream_window=32_768)
    monkeypatch.setattr("tests.proxy.express.rig.Limits", lambda: small)
    big = {"body": message(filler=b"x" * 12_000)}
    script = [step for number in range(16) for step in (("call", call(number, **big)), ("answer", WHOLE))]
    lane = play(script)
    assert lane.count(Outcome.CARRIED) > 10, lane.outcomes
    assert len(lane.wires[0].written) > 2 * 65_536
    assert lane.wire.written.count(frames.window_update(0, 1)[:9]) > 2


# Random scripts

calls = st.builds(
    lambda number, changes: call(number, **changes),
    st.integers(0, 60),
    st.sampled_from(
        [
            {},
            {},
            {},
            {"request_id": None},
            {"timeout": b"700m"},
            {"timeout": b"300m"},
            {"token": None},
            {"token": b"bad"},
            {"body": message(b"closed")},
            {"body": message(b"open-b")},
            {"body": message() + message(b"closed")},
            {"body": b"\0\0\0\0\3abc"},
            {"body": b""},
            {"trace": None},
            {"parts": 2},
            {"trailers": ((b"x", b"y"),)},
        ]
    ),
)
answers = st.builds(
    lambda usual, which: {**usual, "which": which},
    st.sampled_from(
        [
            WHOLE,
            WHOLE,
            WHOLE,
            {"body": response(2, b"z" * 50)},
            {"body": b"", "end": ((b"grpc-status", b"14"), (b"grpc-message", b"away"))},
            {"body": response(1), "end": ((b"grpc-status", b"8"),)},
            {"body": response(1), "end": ((b"grpc-status", b"0"), (b"x-meshproxy-refusal", b"internal"))},
            {"body": response(1), "parts": 2},
            {"body": response(1), "status": 503},
        ]
    ),
    st.integers(0, 3),
)
places = st.one_of(st.just(()), st.tuples(st.integers(1, 250)))
between = st.sampled_from(
    [
        pushed(frames.WINDOW_UPDATE, 0, b"\0\0\0\5"),
        pushed(frames.RST_STREAM, 0, b"\0\0\0\x08"),
        pushed(frames.DATA, 0, b""),
        lambda _: frames.ping(b"12345678", ack=False),
        lambda _: frames.settings([(4, 30)]),
        lambda _: frames.settings([(4, 70_000)]),
        lambda _: frames.settings([(1, 0)]),
    ]
)
usual = st.integers(0, 60).map(exchange)
steps = st.one_of(
    usual,
    usual,
    usual,
    calls.map(lambda one: [("call", one)]),
    answers.map(lambda one: [("answer", one)]),
    st.lists(calls, min_size=2, max_size=4).map(lambda several: [("calls", several)]),
    st.lists(calls, min_size=2, max_size=3).map(lambda several: [("interleaved", several)]),
    st.lists(answers, min_size=2, max_size=4).map(lambda several: [("answers", several)]),
    st.tuples(calls, places).map(lambda how: [("call in pieces", how)]),
    st.tuples(answers, places).map(lambda how: [("answer in pieces", how)]),
    st.tuples(calls.filter(lambda one: bool(one["body"])), between).map(lambda how: [("frame", how)]),
    st.tuples(calls, st.sampled_from([padded, prioritised, continued])).map(lambda how: [("changed", how)]),
    st.sampled_from(
        [
            [("cancel", None)],
            [("wait", 0.3)],
            [("wait", 2.0)],
            [("wait", 61.0)],
            [("hang up", True)],
            [("hang up", False)],
            [("leave", True)],
            [("leave", False)],
            [("drain", 0.0)],
            [("go away", False)],
            [("go away", True)],
            [("reload", None)],
            [("withdraw", True)],
            [("withdraw", False)],
            [("pause", True)],
            [("pause", False)],
            [("pause upstream", True)],
            [("pause upstream", False)],
            [("endpoint", False)],
            [("endpoint", True)],
        ]
    ),
)


@pytest.mark.timeout(600 + EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(
    st.lists(steps, min_size=1, max_size=8),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_random_scripts(
    script: list[list[Step]], records: bool, audits: bool, settles: bool, takes_little: bool, indexes: bool
) -> None:
    whole = [*WARM, *(step for several in script for step in several)]
    limits: dict[str, Any] = {"limits": Limits(stream_window=64, streams=3)} if takes_little else {}
    play(whole, records=records, audits=audits, settles=settles, indexes=indexes, **limits)
