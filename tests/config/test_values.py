"""Single values: what is taken, what it becomes, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.config import values
from meshproxy.config.values import Address

READERS = [reader for name, reader in vars(values).items() if name.startswith("read_")]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("5s", 5.0),
        ("1m", 60.0),
        ("24h", 86_400.0),
        ("1.5s", 1.5),
        (3, 3.0),
        (0.1, 0.1),
        ("1m30s", 90.0),
        ("2h3m4s5ms", 7_384.005),
        ("1m5ms", 60.005),
    ],
)
def test_durations(text: object, seconds: float) -> None:
    assert values.read_duration(text) == seconds


@pytest.mark.parametrize(
    "bad",
    [
        "5",
        "5 s",
        "-5s",
        "s",
        "5S",
        "30s1m",
        "1m1m",
        "1m30",
        "1m 30s",
        "\u0665s",
        "1e3s",
        "",
        "25h",
        -1,
        86_401,
        True,
        None,
        [],
        "5s\n",
        0,
        "0s",
    ],
)
def test_what_is_no_duration(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_duration(bad)


def test_lifetimes_may_be_longer_than_a_day() -> None:
    assert values.read_lifetime("168h") == 604_800.0
    assert values.read_lifetime("8784h") == 366 * 86_400
    for bad in ("8785h", 366 * 86_400 + 1, "0s", 0, "7d", None):
        with pytest.raises(ValueError):
            values.read_lifetime(bad)


def test_nothing_is_a_duration_only_where_it_makes_sense() -> None:
    assert values.read_duration_or_zero(0) == 0.0
    assert values.read_duration_or_zero("0s") == 0.0


@pytest.mark.parametrize(
    ("text", "size"), [(0, 0), (65536, 65536), ("12", 12), ("4MiB", 4 << 20), ("64Ki", 65536), ("1GiB", 1 << 30)]
)
def test_sizes(text: object, size: int) -> None:
    assert values.read_size(text) == size


@pytest.mark.parametrize("bad", ["4MB", "4M", "4 MiB", "4mib", "0.5MiB", "-1", -1, 1.0, True, None, "1TiB", 1 << 63])
def test_what_is_no_size(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_size(bad)


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("0.0.0.0:18500", Address("0.0.0.0", 18500), "0.0.0.0:18500"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("[0:0::1]:80", Address("::1", 80), "[::1]:80"),
        ("127.0.0.1:0", Address("127.0.0.1", 0), "127.0.0.1:0"),
    ],
)
def test_listen_addresses(text: str, address: Address, written: str) -> None:
    assert values.read_listen_address(text) == address
    assert str(address) == written


@pytest.mark.parametrize(
    "bad",
    [
        "localhost:80",
        ":80",
        "80",
        "::1:80",
        "127.0.0.1",
        "127.0.0.1:65536",
        "127.0.0.1:+1",
        "1.2.3:80",
        "[::g]:1",
        80,
        None,
    ],
)
def test_what_is_no_listen_address(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_listen_address(bad)


@pytest.mark.parametrize(
    "text",
    [
        "localhost:8501",
        "x0x1:1",
        "0x1.a:1",
        "a-1:1",
        "tf-serving.models.svc.cluster.local:8500",
        "127.0.0.1:1",
        "[::1]:65535",
    ],
)
def test_endpoint_addresses(text: str) -> None:
    assert str(values.read_endpoint_address(text)) == text


@pytest.mark.parametrize(
    "bad",
    [
        *("localhost:0", "-a:1", "a b:1", "http://a:1", "a:1/x", "user@a:1", "a..b:1", "ä:1", ""),
        # What inet_aton(3) takes for an address, and what no resolver knows (WHATWG URL section 3.5).
        *("0x7f000001:1", "0X7F.1:1", "0x7f.0.0.0x1:1", "127.0x1.:1", "0x:1", "a.1:1", "010.0.0.1:1"),
    ],
)
def test_what_is_no_endpoint_address(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_endpoint_address(bad)


@pytest.mark.parametrize("text", ["a", "finance-team", "a.b-c.0", "0", "a" * 63])
def test_names(text: str) -> None:
    assert values.read_name(text) == text


@pytest.mark.parametrize("bad", ["", "A", "a_b", "-a", "a-", "a..b", "a b", "a/b", "a" * 64, ".a", "a\n", 1, None])
def test_what_is_no_name(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_name(bad)


@pytest.mark.parametrize("text", ["*", "half_plus_*", "a?c", "model[1]", "a\\b", "ä", "a.b", " a", "a*b*c*d*e*f*g*h*"])
def test_globs(text: str) -> None:
    assert values.read_glob(text) == text


@pytest.mark.parametrize("bad", ["", "a**", "a\nb", "a\0", "*a*" * 9, "x" * 257, 1, None, ["a"], "a\x1b[0m"])
def test_what_is_no_glob(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_glob(bad)


@pytest.mark.parametrize("text", ["team-a", "a.b", "*", "team-*", "*-prod", "t?am", "a*b*c"])
def test_names_and_globs_over_them(text: str) -> None:
    assert values.read_name_glob(text) == text


@pytest.mark.parametrize("bad", ["", "Team-*", "a_*", "team/*", "**", "[a]*", "-a", 5, None, "*a" * 9, "a" * 300 + "*"])
def test_what_is_no_name_and_no_glob(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_name_glob(bad)


@pytest.mark.parametrize("bad", ["", "Prod.example", "prod/x", "prod example", "prod:1", "x" * 256, 1, "prod\n"])
def test_what_is_no_trust_domain(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_trust_domain(bad)


@pytest.mark.parametrize("text", ["spiffe://dev.example/ns/a/sa/b", "spiffe://d/A_b.c-1"])
def test_spiffe_ids(text: str) -> None:
    assert values.read_spiffe_id(text) == text


@pytest.mark.parametrize(
    "bad",
    [
        "spiffe://d",
        "spiffe://d/",
        "spiffe://d/a/",
        "spiffe://d//a",
        "spiffe://d/../a",
        "spiffe://d/.",
        "spiffe://D/a",
        "spiffe://d/a%2Fb",
        "spiffe://d/*",
        "spiffe://d:1/a",
        "spiffe://u@d/a",
        "spiffe:///a",
        "SPIFFE://d/a",
        "https://d/a",
        "spiffe://d/a\n",
        "spiffe://d/" + "a" * 2048,
        "",
        1,
    ],
)
def test_what_is_no_spiffe_id(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_spiffe_id(bad)


def test_role_arns() -> None:
    arn = "arn:aws:iam::123456789012:role/team/quoter"
    assert values.read_role_arn(arn) == arn
    for bad in ("arn:aws:iam::12345:role/x", "arn:aws:sts::123456789012:assumed-role/x/y", arn + "*", arn + " ", "", 1):
        with pytest.raises(ValueError):
            values.read_role_arn(bad)


@pytest.mark.parametrize(
    "text",
    ["https://login.example", "https://login.example:8443/a?b=c", "http://127.0.0.1:9000/keys", "http://[::1]/k"],
)
def test_urls(text: str) -> None:
    assert values.read_url(text) == text


@pytest.mark.parametrize(
    "bad",
    [
        "http://login.example",
        "http://localhost.example/",
        "ftp://a",
        "https://",
        "https://a b",
        "https://user@a/",
        "https://a/#x",
        "https://a:99999",
        "//a",
        "https://a/\n",
        "https://a/" + "x" * 2048,
        1,
    ],
)
def test_what_is_no_url(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_url(bad)


def test_an_access_log_is_a_word_or_something_that_looks_like_a_path() -> None:
    for text in ("stdout", "off", "./access.log", "/var/log/mesh"):
        assert values.read_access_log(text) == text
    assert values.read_access_log("/dev/stdout") == "stdout"
    for bad in ("stdot", "access.log", "logs/", "", False, None):
        with pytest.raises(ValueError):
            values.read_access_log(bad)


def test_numbers_keep_within_their_bounds() -> None:
    assert values.read_count(1) == 1
    assert values.read_rate(1) == 1.0
    for reader, bad in (
        (values.read_count, 0),
        (values.read_count, 1_000_001),
        (values.read_count, True),
        (values.read_rate, 0),
        (values.read_rate, "1"),
    ):
        with pytest.raises(ValueError):
            reader(bad)


@pytest.mark.parametrize(
    ("reader", "good", "bad"),
    [
        (values.read_percent, [0, 0.5, 100], [-0.1, 100.1, "50", True, None]),
        (values.read_ratio, [0, 0.2, 1], [-1, 1.1, "0.2", False, float("nan")]),
        (values.read_weight, [0, 1, 1_000_000], [-1, 1_000_001, 0.5, "1", True]),
        (values.read_port, [1, 65_535], [0, 65_536, "80", True]),
        (values.read_http_status, [400, 503, 599], [200, 399, 600, "503", 503.0]),
    ],
)
def test_more_numbers(reader: Callable[[object], float], good: list[float], bad: list[object]) -> None:
    for value in good:
        assert reader(value) == value
    for wrong in bad:
        with pytest.raises(ValueError):
            reader(wrong)


@pytest.mark.parametrize(
    ("text", "name"),
    [("Models.Example", "models.example"), ("a.b.", "a.b"), ("10.0.0.1", "10.0.0.1"), ("a" * 63, "a" * 63)],
)
def test_host_names(text: str, name: str) -> None:
    assert values.read_host_name(text) == name


def test_compose_services_have_underscores() -> None:
    assert str(values.read_endpoint_address("tf_serving:8501")) == "tf_serving:8501"
    assert values.read_host_name("TF_serving") == "tf_serving"
    assert values.read_url("https://key_cloak:8443/keys") == "https://key_cloak:8443/keys"


@pytest.mark.parametrize("bad", ["", ".", "a..b", "-a", "a:80", "[::1]", "a b", "a" * 64, "a." * 127, "a\n", 1])
def test_what_is_no_host_name(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_host_name(bad)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Models.Serving.svc.cluster.local.", "models.serving.svc.cluster.local."),
        ("_grpc._tcp.models", "_grpc._tcp.models"),
        ("models", "models"),
    ],
)
def test_names_to_look_up(text: str, name: str) -> None:
    assert values.read_dns_name(text) == name


@pytest.mark.parametrize("bad", ["", ".", "a..b", "a b", "a" * 64, "a." * 128, "a\n", "é", None, 1])
def test_what_cannot_be_looked_up(bad: object) -> None:
    with pytest.raises(ValueError):
        values.read_dns_name(bad)


def test_names_of_services_and_their_ports() -> None:
    for name in ("resnet", "a", "0-9", "a" * 63):
        assert values.read_label(name) == values.read_port_name(name) == name
    assert values.read_port_name("") == ""
    for bad in ("a.b", "-a", "A", "a" * 64, "a/b", "..", "a\n", 1, None):
        with pytest.raises(ValueError):
            values.read_label(bad)
        with pytest.raises(ValueError):
            values.read_port_name(bad)
    with pytest.raises(ValueError, match="the port's name, not its number"):
        values.read_port_name(8500)
    with pytest.raises(ValueError):
        values.read_label("")


def test_header_names() -> None:
    for name in ("x-tier", "x_1", "a" * 256):
        assert values.read_header_name(name) == name
    for bad in ("X-Tier", "", ":path", "a b", "a:b", "a" * 257, "ä", "a\n", 1, None):
        with pytest.raises(ValueError):
            values.read_header_name(bad)
    for name in ("connection", "content-length", "te", "traceparent"):
        with pytest.raises(ValueError, match="none would ever be found"):
            values.read_header_name(name)
    with pytest.raises(ValueError, match='by "hosts" of a ModelServer'):
        values.read_header_name("host")


def test_headers_that_a_condition_may_be_about() -> None:
    for name in ("x-tier", "x-forwarded-for", "cookie", "user-agent"):
        assert values.read_condition_header(name) == name
    for bad in ("host", "connection", "content-length", "te", "traceparent", "x-meshproxy-caller", "X-Tier", ":path"):
        with pytest.raises(ValueError):
            values.read_condition_header(bad)
    with pytest.raises(ValueError, match='under "token"'):
        values.read_condition_header("authorization")


def test_text_that_looks_like_a_number_is_asked_for_in_quotes() -> None:
    with pytest.raises(ValueError, match='write it in quotes, "12"'):
        values.read_text(12)


def test_what_is_shown_is_one_short_line() -> None:
    assert values.shown("a\nb\x1b") == '"a\\nb\\x1b"'
    assert values.shown("x" * 1000) == '"' + "x" * 60 + '"...'
    assert values.shown("\U00010000" * 60) == '"' + "\\U00010000" * 12 + '"...'
    others: list[object] = [None, True, 1, [], {}]
    assert [values.shown(value) for value in others] == [
        "nothing (null)",
        "true",
        "1",
        "a list",
        "a mapping",
    ]


@given(
    st.sampled_from(READERS),
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2),
)
def test_a_reader_takes_or_explains(reader: Callable[[object], Any], value: object) -> None:
    message = ""
    try:
        reader(value)
    except ValueError as error:
        message = str(error)
    assert len(message) < 400
    assert message == "" or message.isprintable()


@pytest.mark.parametrize(
    ("value", "version"),
    [
        (0, "0"),
        (3, "3"),
        ("3", "3"),
        ((1 << 63) - 1, "9223372036854775807"),
        ("9223372036854775807", "9223372036854775807"),
        ("2024-06-rc1", "2024-06-rc1"),
        ("1.10", "1.10"),
        ("v1", "v1"),
        ("1e3", "1e3"),
        ("0x1", "0x1"),
        ("x" * 256, "x" * 256),
    ],
)
def test_a_version_is_a_number_or_text(value: object, version: str) -> None:
    assert values.read_version(value) == version
    assert values.read_version(version) == version


@pytest.mark.parametrize(
    "value",
    [-1, 1 << 63, True, 1.1, 3.0, None, "", "03", "00", "-1", "-0", "+1", " 1", "1 ", "9223372036854775808",
     "1" * 20, "٣", "²", ".", "..", "~", "a/b", "a%62", "a:b", "é", "x" * 257, "1\n", [1]],
)  # fmt: skip
def test_what_has_no_one_form_is_no_version(value: object) -> None:
    with pytest.raises(ValueError):
        values.read_version(value)


@given(number=st.integers(0, (1 << 63) - 1), other=st.integers(0, (1 << 63) - 1), zeros=st.integers(1, 3))
def test_a_number_is_one_version_however_it_is_written(number: int, other: int, zeros: int) -> None:
    assert values.read_version(number) == values.read_version(str(number))
    assert values.is_whole_version(values.read_version(number))
    assert (values.read_version(number) == values.read_version(other)) == (number == other)
    with pytest.raises(ValueError):
        values.read_version("0" * zeros + str(number))


def test_cookies() -> None:
    assert values.read_cookie_name("__Host-user") == "__Host-user"
    assert values.read_cookie_path("/v1/models") == "/v1/models"
    for bad in ("", "a=b", "a b", "a;", "é", 3):
        with pytest.raises(ValueError):
            values.read_cookie_name(bad)
    for bad in ("", "v1", "/a;b", "/a b", "/é", "/a\n", 3):
        with pytest.raises(ValueError):
            values.read_cookie_path(bad)


def test_a_model_name_is_no_glob() -> None:
    assert values.read_model_name("team/résnet") == "team/résnet"
    for bad in ("", "a*", "a?", "a\nb", "é" * 129, 3):
        with pytest.raises(ValueError):
            values.read_model_name(bad)


@pytest.mark.parametrize(
    ("identity", "hint"),
    [
        (
            "quoter.pricing.serviceaccount.identity.linkerd.cluster.local",
            "write namespace: pricing, serviceAccount: quoter",
        ),
        ("cluster.local/ns/pricing/sa/quoter", 'write "spiffe://cluster.local/ns/pricing/sa/quoter"'),
        ("quoter.pricing.svc", "a DNS name names a server"),
        ("*.pricing.svc", "a DNS name names a server"),
        ("Quoter", "a DNS name names a server"),
        ("quoter/x", 'got "quoter/x"'),
    ],
)
def test_identities_of_others(identity: str, hint: str) -> None:
    with pytest.raises(ValueError, match="expected a SPIFFE id") as caught:
        values.read_spiffe_id(identity)
    assert hint in str(caught.value)
