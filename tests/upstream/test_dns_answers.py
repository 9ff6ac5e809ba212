from __future__ import annotations

from ipaddress import ip_address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.message import Message
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.upstream.dns_answers import (
    AAAA,
    SRV,
    A,
    Addresses,
    LookupFailed,
    Targets,
    is_confused,
    is_truncated,
    make_query,
    read_answer,
    read_name,
    read_reply,
    read_targets,
)

NAME = "models.test."


def answer(
    kind: str, *records: str, additional: tuple[str, ...] = (), authority: tuple[str, ...] = (), rcode: str = "NOERROR"
) -> Message:
    """A response to a question for `NAME`. Records: `NAME TTL TYPE VALUE`."""
    response = dns.message.make_response(dns.message.make_query(NAME, kind))
    response.set_rcode(dns.rcode.from_text(rcode))
    for section, texts in zip(response.sections[1:], (records, authority, additional), strict=True):
        for text in texts:
            name, ttl, its_kind, value = text.split(" ", 3)
            section.append(dns.rrset.from_text(name, int(ttl), "IN", its_kind, *value.split("|")))
    parsed = dns.message.from_wire(response.to_wire())
    assert isinstance(parsed, Message)
    return parsed


def hosts(*texts: str) -> tuple[object, ...]:
    return tuple(map(ip_address, texts))


def test_addresses_and_how_long_they_hold() -> None:
    read = read_answer(answer("A", f"{NAME} 30 A 10.0.0.2|10.0.0.1"))
    assert set(read.hosts) == set(hosts("10.0.0.1", "10.0.0.2"))
    assert read.ttl == 30
    assert read_answer(answer("AAAA", f"{NAME} 7 AAAA fd00::1")) == Addresses(hosts("fd00::1"), 7)  # type: ignore[arg-type]


def test_aliases_are_followed_and_the_shortest_life_counts() -> None:
    read = read_answer(answer("A", f"{NAME} 5 CNAME a.test.", "a.test. 60 CNAME b.test.", "b.test. 90 A 10.0.0.1"))
    assert read == Addresses(hosts("10.0.0.1"), 5)  # type: ignore[arg-type]


def test_addresses_of_other_names_do_not_count() -> None:
    assert read_answer(answer("A", "other.test. 5 A 10.0.0.1")).hosts == ()


def test_an_alias_that_leads_nowhere_has_no_addresses() -> None:
    assert read_answer(answer("A", f"{NAME} 5 CNAME a.test.")).hosts == ()


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_nothing_is_an_answer_and_holds_as_long_as_the_zone_says(rcode: str) -> None:
    soa = "test. 40 SOA ns.test. admin.test. 1 2 3 4 12"
    assert read_answer(answer("A", authority=(soa,), rcode=rcode)) == Addresses((), 12)


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP"])
def test_other_codes_are_no_answer(rcode: str) -> None:
    for read in (read_answer, read_targets):
        with pytest.raises(LookupFailed, match=rcode):
            read(answer("A", rcode=rcode))


def test_aliases_in_a_circle_are_no_answer() -> None:
    with pytest.raises(LookupFailed, match="contradicts"):
        read_answer(answer("A", f"{NAME} 5 CNAME a.test.", f"a.test. 5 CNAME {NAME}"))


def test_addresses_that_mean_nobody_are_left_out() -> None:
    assert read_answer(answer("A", f"{NAME} 5 A 0.0.0.0|10.0.0.1|224.0.0.1")).hosts == hosts("10.0.0.1")


def test_targets_with_the_addresses_that_came_along() -> None:
    read = read_targets(
        answer(
            "SRV",
            f"{NAME} 30 SRV 0 50 8500 a.test.|0 50 8501 b.test.",
            additional=("a.test. 9 A 10.0.0.1", "a.test. 20 AAAA fd00::1", "other.test. 1 A 10.6.6.6"),
        )
    )
    a, b = map(dns.name.from_text, ("a.test.", "b.test."))
    assert set(read.targets) == {(a, 8500), (b, 8501)}
    assert read.known == {a: hosts("10.0.0.1", "fd00::1")}
    assert read.ttl == 9


def test_targets_of_the_first_priority_only() -> None:
    read = read_targets(answer("SRV", f"{NAME} 5 SRV 20 0 1 b.test.|10 0 2 a.test."))
    assert read.targets == ((dns.name.from_text("a.test."), 2),)


def test_a_dot_as_target_is_nobody() -> None:
    assert read_targets(answer("SRV", f"{NAME} 5 SRV 0 0 1 .")) == Targets((), 5, {})


def test_questions() -> None:
    query = make_query(read_name("models.test"), SRV)
    assert query.question[0].name == dns.name.from_text(NAME)
    assert query.question[0].rdtype == dns.rdatatype.SRV
    assert query.flags & dns.flags.RD
    assert (query.edns, query.payload) == (0, 1232)
    assert make_query(read_name("models.test"), A, is_plain=True).edns == -1
    assert len({make_query(read_name(NAME), A).id for _ in range(50)}) > 40


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".".join(["x" * 60] * 5)])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(LookupFailed):
        read_name(text)


def test_only_the_answer_to_the_question_is_read() -> None:
    query = make_query(read_name(NAME), A)
    good = dns.message.make_response(query)
    assert read_reply(query, good.to_wire()) is not None
    other_id = dns.message.make_response(query)
    other_id.id ^= 1
    other_name = dns.message.make_response(dns.message.make_query("other.test.", "A", id=query.id))
    other_type = dns.message.make_response(dns.message.make_query(NAME, "AAAA", id=query.id))
    for wrong in (other_id, other_name, other_type, query):
        assert read_reply(query, wrong.to_wire()) is None
    upper = dns.message.make_response(dns.message.make_query(NAME.upper(), "A", id=query.id))
    assert read_reply(query, upper.to_wire()) is not None


@given(st.binary(max_size=80))
def test_whatever_comes_is_an_answer_or_none(data: bytes) -> None:
    query = make_query(read_name(NAME), AAAA)
    for wire in (data, query.id.to_bytes(2, "big") + data):
        reply = read_reply(query, wire)
        if reply is not None:
            for read in (read_answer, read_targets):
                try:
                    read(reply)
                except LookupFailed:
                    pass


@given(st.data())
def test_answers_with_broken_bytes_raise_nothing_else(data: st.DataObject) -> None:
    query = make_query(read_name(NAME), A)
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text(NAME, 5, "IN", "A", "10.0.0.1"))
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    reply = read_reply(query, bytes(wire))
    if reply is not None:
        try:
            read_answer(reply)
        except LookupFailed:
            pass


def test_what_a_message_says_of_itself() -> None:
    message = answer("A")
    assert not is_truncated(message)
    assert not is_confused(message)
    message.flags |= dns.flags.TC
    assert is_truncated(message)
    assert is_confused(answer("A", rcode="FORMERR"))
