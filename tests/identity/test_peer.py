"""X509-SVID section 5.2 case by case, and our DER walk against the `cryptography` package."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.devtools.ca import DevelopmentCA
from meshproxy.identity import peer
from meshproxy.identity.caller import Workload
from meshproxy.identity.peer import (
    CERTIFICATE_BYTES,
    REASONS,
    PeerRefused,
    PeerRole,
    read_peer,
    read_spiffe_id,
    read_start,
)
from tests.thorough import tries

DOMAIN = "dev.example"
ID = "spiffe://dev.example/ns/pricing/sa/quoter"
CA = DevelopmentCA.create(DOMAIN)
NOW = datetime.now(UTC).timestamp()
GOOD = CA.issue(ID).der


def refusal(der: bytes, *, now: float = NOW, role: PeerRole = PeerRole.CLIENT) -> str:
    with pytest.raises(PeerRefused) as caught:
        read_peer(der, DOMAIN, now, role)
    assert caught.value.reason in REASONS
    assert caught.value.message.isprintable()
    return caught.value.reason


# A certificate of literals, for what no library would write.


def tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    size = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + content


def extension(oid: str, content: bytes, critical: bytes = b"") -> bytes:
    return tlv(0x30, tlv(0x06, bytes.fromhex(oid)), critical, tlv(0x04, content))


SAN, BASIC_CONSTRAINTS, KEY_USAGE, EXTENDED = "551d11", "551d13", "551d0f", "551d25"
GOOD_SAN = extension(SAN, tlv(0x30, tlv(0x86, ID.encode())))
VALIDITY = tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x17, b"491231235959Z"))


def raw(
    *extensions: bytes,
    version: bytes = bytes.fromhex("a003020102"),
    validity: bytes = VALIDITY,
    unique: bytes = b"",
    tail: bytes = b"",
) -> bytes:
    empty = tlv(0x30)
    body = tlv(0xA3, tlv(0x30, *extensions)) if extensions else b""
    tbs = tlv(0x30, version, tlv(0x02, b"\x01"), empty, empty, validity, empty, empty, unique, body)
    return tlv(0x30, tbs, empty, tlv(0x03, b"\0sig"), tail)


def test_a_workload() -> None:
    workload = read_peer(GOOD, DOMAIN, NOW)
    assert workload == Workload(ID, DOMAIN, "pricing", "quoter", workload.not_after)
    assert workload.not_after == x509.load_der_x509_certificate(GOOD).not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    "path", ["/db", "/ns/a", "/ns/a/sa/b/c", "/ns/a/cluster/b", "/x/a/sa/b", "/9eebccd2-12bf-40a6_.b", "/ns/a/sa"]
)
def test_other_shapes_have_no_namespace(path: str) -> None:
    workload = read_peer(CA.issue(f"spiffe://{DOMAIN}{path}").der, DOMAIN, NOW)
    assert (workload.namespace, workload.service_account) == (None, None)
    assert workload.spiffe_id == f"spiffe://{DOMAIN}{path}"


def test_other_alternative_names_do_not_matter() -> None:
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("a.dev.example"),
            x509.RFC822Name("a@dev.example"),
            x509.UniformResourceIdentifier(ID),
            x509.DirectoryName(CA.certificate.subject),
            x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
            x509.OtherName(x509.ObjectIdentifier("1.2.3"), tlv(0x0C, b"spiffe://dev.example/x")),
        ]
    )
    assert read_peer(CA.issue(extensions=[(names, True)]).der, DOMAIN, NOW).spiffe_id == ID


@pytest.mark.parametrize(
    ("der", "reason"),
    [
        pytest.param(lambda: CA.issue().der, "no-spiffe-id", id="no-names"),
        pytest.param(lambda: CA.issue(dns=["dev.example"]).der, "no-spiffe-id", id="dns-only"),
        pytest.param(lambda: raw(extension(SAN, tlv(0x30, tlv(0x82, ID.encode())))), "no-spiffe-id", id="id-as-dns"),
        pytest.param(lambda: raw(extension(SAN, tlv(0x30, tlv(0x81, ID.encode())))), "no-spiffe-id", id="id-as-mail"),
        pytest.param(lambda: raw(extension(SAN, tlv(0x30))), "no-spiffe-id", id="empty-names"),
        pytest.param(lambda: raw(), "no-spiffe-id", id="no-extensions"),
        pytest.param(lambda: CA.issue(ID, ID).der, "several-uris", id="same-id-twice"),
        pytest.param(lambda: CA.issue(ID, "https://dev.example/").der, "several-uris", id="another-uri"),
        pytest.param(lambda: CA.issue("spiffe://other.example/x").der, "trust-domain", id="other-domain"),
        pytest.param(lambda: CA.issue("spiffe://dev.example.evil.example/x").der, "trust-domain", id="domain-prefix"),
        pytest.param(lambda: CA.issue("spiffe://x.dev.example/x").der, "trust-domain", id="domain-suffix"),
        pytest.param(lambda: CA.issue(ID, is_authority=True).der, "authority", id="ca-true"),
        pytest.param(
            lambda: CA.issue(ID, key_usage=["digital_signature", "key_cert_sign"]).der, "authority", id="key-cert-sign"
        ),
        pytest.param(lambda: CA.issue(ID, key_usage=["digital_signature", "crl_sign"]).der, "authority", id="crl-sign"),
        pytest.param(lambda: CA.issue(ID, key_usage=["key_agreement"]).der, "key-usage", id="no-digital-signature"),
        pytest.param(lambda: raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x01\x00")), "key-usage", id="no-usage-at-all"),
        pytest.param(
            lambda: CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH]).der,
            "extended-key-usage",
            id="server-auth-only",
        ),
        pytest.param(
            lambda: CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]).der,
            "extended-key-usage",
            id="any-usage",
        ),
        pytest.param(
            lambda: raw(GOOD_SAN, extension(EXTENDED, tlv(0x30))), "extended-key-usage", id="no-extended-usage-at-all"
        ),
    ],
)
def test_not_an_svid(der: Callable[[], bytes], reason: str) -> None:
    assert refusal(der()) == reason


def test_the_authority_itself_is_refused() -> None:
    assert refusal(CA.certificate.public_bytes(serialization.Encoding.DER)) == "authority"


def test_usages_by_role() -> None:
    server = CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.SERVER_AUTH]).der
    client = CA.issue(ID, extended_key_usage=[ExtendedKeyUsageOID.CLIENT_AUTH]).der
    neither = CA.issue(ID, extended_key_usage=None).der
    assert read_peer(server, DOMAIN, NOW, PeerRole.SERVER).spiffe_id == ID
    assert read_peer(client, DOMAIN, NOW, PeerRole.CLIENT).spiffe_id == ID
    assert refusal(client, role=PeerRole.SERVER) == "extended-key-usage"
    for role in PeerRole:
        assert read_peer(neither, DOMAIN, NOW, role) == read_peer(neither, DOMAIN, NOW)


def test_without_basic_constraints_and_key_usage() -> None:
    assert read_peer(CA.issue(ID, is_authority=None, key_usage=None).der, DOMAIN, NOW).spiffe_id == ID


def test_validity_is_inclusive() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    end = start + timedelta(hours=1)
    der = CA.issue(ID, not_before=start, not_after=end).der
    assert refusal(der, now=start.timestamp() - 0.001) == "not-yet-valid"
    assert read_peer(der, DOMAIN, start.timestamp()).not_after == end.timestamp()
    assert read_peer(der, DOMAIN, end.timestamp()).not_after == end.timestamp()
    assert read_start(der) == start.timestamp()
    assert refusal(der, now=end.timestamp() + 0.001) == "expired"


def test_a_certificate_that_is_remembered_is_looked_at_again() -> None:
    start = datetime(2026, 3, 1, 12, tzinfo=UTC)
    der = CA.issue(ID, not_before=start, not_after=start + timedelta(hours=1)).der
    workload = read_peer(der, DOMAIN, start.timestamp())
    assert read_peer(bytes(bytearray(der)), DOMAIN, start.timestamp()) is workload
    assert refusal(der, now=start.timestamp() - 1) == "not-yet-valid"
    assert refusal(der, now=start.timestamp() + 3_601) == "expired"
    with pytest.raises(PeerRefused) as caught:
        read_peer(der, "other.example", start.timestamp())
    assert caught.value.reason == "trust-domain"


def test_what_a_certificate_may_be_used_for_is_looked_at_for_each_role() -> None:
    der = CA.issue(ID, extended_key_usage=(ExtendedKeyUsageOID.CLIENT_AUTH,)).der
    assert read_peer(der, DOMAIN, NOW).spiffe_id == ID
    assert refusal(der, role=PeerRole.SERVER) == "extended-key-usage"


def test_a_bounded_number_of_certificates_of_a_bounded_size_is_remembered() -> None:
    assert peer._remember_workload.cache_parameters()["maxsize"] == peer.KEPT
    peer._remember_workload.cache_clear()
    large = CA.issue(ID, dns=[f"{'a' * 60}.host-{number}.example" for number in range(60)]).der
    assert len(large) > peer.KEPT_BYTES
    assert read_peer(large, DOMAIN, NOW) == read_peer(large, DOMAIN, NOW)
    assert peer._remember_workload.cache_info().currsize == 0


def test_times_far_away() -> None:
    der = CA.issue(ID, not_before=datetime(1960, 2, 29, tzinfo=UTC), not_after=datetime(9999, 12, 31, tzinfo=UTC)).der
    assert read_peer(der, DOMAIN, NOW).not_after == datetime(9999, 12, 31, tzinfo=UTC).timestamp()


BAD_IDS = [
    "spiffe://dev.example",
    "spiffe://dev.example/",
    "spiffe://dev.example//a",
    "spiffe://dev.example/a/",
    "spiffe://dev.example/a//b",
    "spiffe://dev.example/.",
    "spiffe://dev.example/../a",
    "spiffe://dev.example/a/./b",
    "spiffe://dev.example/a/..",
    "spiffe://dev.example/a%2Fb",
    "spiffe://dev.example/a b",
    "spiffe://dev.example/a,b",
    "spiffe://dev.example/a\0b",
    "spiffe://dev.example/a\n",
    "spiffe://dev.example/a\r\nx",
    "spiffe://dev.example/a?b",
    "spiffe://dev.example/a#b",
    "spiffe://dev.example/a*",
    "spiffe://dev.example/a~b",
    "spiffe://dev.example/a:b",
    "spiffe://dev.example/a@b",
    "spiffe://dev.example/a\\b",
    "spiffe://dev.example\0.evil.example/a",
    "spiffe://dev.example:443/a",
    "spiffe://user@dev.example/a",
    "spiffe://Dev.Example/a",
    "spiffe://dev%2Eexample/a",
    "spiffe://[::1]/a",
    "spiffe:///a",
    "spiffe:/dev.example/a",
    "spiffe://",
    "spiffe:",
    "SPIFFE://dev.example/a",
    "Spiffe://dev.example/a",
    "https://dev.example/a",
    " spiffe://dev.example/a",
    "spiffe://dev.example/a ",
    "",
    "dev.example/a",
    "spiffe://" + "d" * 256 + "/a",
    "spiffe://dev.example/" + "a" * 2028,
]


@pytest.mark.parametrize("uri", BAD_IDS)
def test_not_a_spiffe_id(uri: str) -> None:
    assert refusal(raw(extension(SAN, tlv(0x30, tlv(0x86, uri.encode()))))) == "bad-spiffe-id"


@pytest.mark.parametrize(
    "byte", [*range(0x2D), 0x2F, *range(0x3A, 0x41), *range(0x5B, 0x5F), 0x60, *range(0x7B, 0x100)]
)
def test_bytes_outside_the_grammar(byte: int) -> None:
    for uri in (b"spiffe://dev.example/a/" + bytes((byte,)), b"spiffe://dev.ex%cample/a" % byte):
        if uri == b"spiffe://dev.ex/ample/a":
            continue  # a slash ends the trust domain: another domain, well-formed
        assert refusal(raw(extension(SAN, tlv(0x30, tlv(0x86, uri))))) == "bad-spiffe-id"


def test_the_longest_id() -> None:
    longest = b"spiffe://dev.example/" + b"a" * 2027
    assert len(longest) == 2048
    assert read_peer(raw(extension(SAN, tlv(0x30, tlv(0x86, longest)))), DOMAIN, NOW).spiffe_id == longest.decode()
    assert read_spiffe_id(longest) == (DOMAIN, "/" + "a" * 2027)


TRUE, FALSE = b"\x01\x01\xff", b"\x01\x01\x00"


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30", id="half-an-element"),
        pytest.param(GOOD[:-1], id="cut"),
        pytest.param(GOOD + b"\0", id="byte-after"),
        pytest.param(b"\x30\x80" + GOOD[4:] + b"\0\0", id="indefinite-length"),
        pytest.param(b"\x30\x83\0" + GOOD[2:4] + GOOD[4:], id="length-not-shortest"),
        pytest.param(b"\x30\x84\0\0" + GOOD[2:], id="length-of-four-octets"),
        pytest.param(b"\x31" + GOOD[1:], id="a-set"),
        pytest.param(b"\x3f\x81\x01" + GOOD[1:], id="tag-of-several-bytes"),
        pytest.param(raw(GOOD_SAN, tail=b"\x05\0"), id="fourth-element"),
        pytest.param(raw(GOOD_SAN, version=b""), id="version-1"),
        pytest.param(raw(GOOD_SAN, version=bytes.fromhex("a003020101")), id="version-2"),
        pytest.param(raw(GOOD_SAN, version=bytes.fromhex("a003020103")), id="version-4"),
        pytest.param(raw(GOOD_SAN, unique=b"\x81\x02\0x"), id="unique-identifier"),
        pytest.param(raw(GOOD_SAN, GOOD_SAN), id="names-twice"),
        pytest.param(raw(extension(BASIC_CONSTRAINTS, tlv(0x30)), GOOD_SAN, GOOD_SAN), id="twice-after-another"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x86, ID.encode())), FALSE)), id="critical-false"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x86, ID.encode())), b"\x01\x01\x01")), id="critical-one"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x86, ID.encode())), b"\x01\x00")), id="critical-empty"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x86, ID.encode())) + b"\0")), id="byte-after-names"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0xA6, tlv(0x16, ID.encode()))))), id="constructed-uri"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x16, ID.encode())))), id="untyped-name"),
        pytest.param(raw(extension(SAN, tlv(0x30, tlv(0x89, ID.encode())))), id="unknown-type-of-name"),
        pytest.param(raw(extension(SAN, tlv(0x31, tlv(0x86, ID.encode())))), id="set-of-names"),
        pytest.param(raw(extension(SAN, b"")), id="no-names-element"),
        pytest.param(raw(GOOD_SAN, extension(BASIC_CONSTRAINTS, tlv(0x30, FALSE))), id="ca-false-written"),
        pytest.param(raw(GOOD_SAN, extension(BASIC_CONSTRAINTS, tlv(0x30, b"\x01\x01\x01"))), id="ca-one"),
        pytest.param(raw(GOOD_SAN, extension(BASIC_CONSTRAINTS, tlv(0x30, b"\x02\x01\0"))), id="path-length-of-a-leaf"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x00")), id="key-usage-empty"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x02\x08\x80")), id="key-usage-eight-unused"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x02\x07\xc0")), id="key-usage-bits-beyond"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x01\x07")), id="key-usage-unused-of-nothing"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x03\x04\x00\x80\x80\x80")), id="key-usage-too-long"),
        pytest.param(raw(GOOD_SAN, extension(KEY_USAGE, b"\x04\x02\x07\x80")), id="key-usage-of-another-type"),
        pytest.param(raw(GOOD_SAN, extension(EXTENDED, tlv(0x30, tlv(0x04, PeerRole.CLIENT.value)))), id="no-oid"),
        pytest.param(
            raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x17, b"2001010000Z"))), id="no-seconds"
        ),
        pytest.param(
            raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x17, b"49123123595+Z"))), id="no-digit"
        ),
        pytest.param(
            raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x17, b"491331235959Z"))), id="month-13"
        ),
        pytest.param(
            raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x18, b"20491231235959Z"))),
            id="four-digit-year-too-early",
        ),
        pytest.param(
            raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"), tlv(0x16, b"491231235959Z"))), id="no-time"
        ),
        pytest.param(raw(GOOD_SAN, validity=tlv(0x30, tlv(0x17, b"200101000000Z"))), id="one-time"),
        pytest.param(raw(GOOD_SAN, validity=VALIDITY[:1] + b"\x20" + VALIDITY[2:] + b"\x05\0"), id="third-time"),
        pytest.param(b"\x30\x83\x01\x00\x00" + bytes(65_536), id="too-large"),
    ],
)
def test_not_a_certificate(der: bytes) -> None:
    assert refusal(der) == "malformed"


def test_the_raw_form_is_one_that_is_taken() -> None:
    """Control of the table above: it is its cases that are refused, not its skeleton."""
    usage = extension(KEY_USAGE, b"\x03\x02\x07\x80", TRUE)
    der = raw(GOOD_SAN, extension(BASIC_CONSTRAINTS, tlv(0x30), TRUE), usage)
    assert read_peer(der, DOMAIN, NOW).spiffe_id == ID
    assert refusal(raw(GOOD_SAN, extension(BASIC_CONSTRAINTS, tlv(0x30, TRUE, b"\x02\x01\0")))) == "authority"


def test_many_names_cost_little() -> None:
    der = raw(extension(SAN, tlv(0x30, *[tlv(0x82, b"")] * 30_000, tlv(0x86, ID.encode()))))
    assert len(der) < CERTIFICATE_BYTES
    assert read_peer(der, DOMAIN, NOW).spiffe_id == ID


# The same certificates read by the `cryptography` package.


def expected_id(der: bytes, now: float) -> str | None:
    """The id that X509-SVID gives a certificate, by someone else's parser; None if it is to be refused."""
    certificate = x509.load_der_x509_certificate(der)
    found = {extension.oid: extension.value for extension in certificate.extensions}
    constraints = found.get(x509.BasicConstraints.oid)
    if isinstance(constraints, x509.BasicConstraints) and constraints.ca:
        return None
    usage = found.get(x509.KeyUsage.oid)
    if isinstance(usage, x509.KeyUsage) and (usage.key_cert_sign or usage.crl_sign or not usage.digital_signature):
        return None
    extended = found.get(x509.ExtendedKeyUsage.oid)
    if isinstance(extended, x509.ExtendedKeyUsage) and ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        return None
    names = found.get(x509.SubjectAlternativeName.oid)
    if not isinstance(names, x509.SubjectAlternativeName):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].startswith(f"spiffe://{DOMAIN}/") or len(uris[0]) > 2048:
        return None
    segments = uris[0].split("/")[3:]
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    if any(segment in ("", ".", "..") or segment.strip(letters) for segment in segments):
        return None
    if not certificate.not_valid_before_utc.timestamp() <= now <= certificate.not_valid_after_utc.timestamp():
        return None
    return uris[0]


def our_id(der: bytes, now: float) -> str | None:
    try:
        return read_peer(der, DOMAIN, now).spiffe_id
    except PeerRefused:
        return None


DATES = st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)).map(lambda d: d.replace(microsecond=0, tzinfo=UTC))
SEGMENTS = st.text(st.characters(codec="ascii"), max_size=8) | st.sampled_from(["a", "ns", "sa", ".", "..", "A-b_c.9"])
URIS = (
    st.lists(SEGMENTS, max_size=5).map(lambda parts: "/".join([f"spiffe://{DOMAIN}", *parts]))
    | st.sampled_from([ID, ID, ID, *[uri for uri in BAD_IDS if uri]])
)  # fmt: skip
USAGES = ["digital_signature", "content_commitment", "key_encipherment", "key_agreement", "key_cert_sign", "crl_sign"]
PURPOSES = [
    ExtendedKeyUsageOID.SERVER_AUTH,
    ExtendedKeyUsageOID.CLIENT_AUTH,
    ExtendedKeyUsageOID.CODE_SIGNING,
    ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
]


@settings(max_examples=tries(200))
@given(
    uris=st.lists(URIS, min_size=0, max_size=2) | st.just([ID]),
    dns=st.lists(st.sampled_from(["a.example", "spiffe"]), max_size=2),
    is_authority=st.sampled_from([False, False, None, True]),
    key_usage=st.none() | st.lists(st.sampled_from(USAGES), unique=True) | st.just(["digital_signature"]),
    extended_key_usage=st.none() | st.lists(st.sampled_from(PURPOSES), min_size=1, unique=True),
    dates=st.lists(DATES, min_size=3, max_size=3).map(sorted),
    order=st.sampled_from([(0, 1, 2), (0, 1, 2), (0, 1, 2), (1, 0, 2), (0, 2, 1)]),
)
def test_same_verdict_as_another_parser(
    uris: list[str],
    dns: list[str],
    is_authority: bool | None,
    key_usage: list[str] | None,
    extended_key_usage: list[x509.ObjectIdentifier] | None,
    dates: list[datetime],
    order: tuple[int, int, int],
) -> None:
    not_before, now, not_after = (dates[i] for i in order)
    if not_before > not_after:
        not_before, not_after = not_after, not_before
    if key_usage is not None and not key_usage:
        key_usage = None
    der = CA.issue(
        *uris,
        dns=dns,
        is_authority=is_authority,
        key_usage=key_usage,
        extended_key_usage=extended_key_usage,
        not_before=not_before,
        not_after=not_after,
    ).der
    assert our_id(der, now.timestamp()) == expected_id(der, now.timestamp())


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["set", "insert", "delete", "copy"]), st.integers(0, 4095), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=tries(200))
@given(mutations=MUTATIONS, base=st.sampled_from([GOOD, raw(GOOD_SAN), CA.issue(ID, dns=["a.example"]).der]))
def test_mutations_are_refused_or_read_the_same(mutations: list[tuple[str, int, int]], base: bytes) -> None:
    der = bytearray(base)
    for kind, at, value in mutations:
        at %= len(der) + 1
        if kind == "insert":
            der[at:at] = bytes((value,))
        elif kind == "delete":
            del der[at : at + 1 + value % 4]
        elif kind == "copy":
            der[at:at] = der[value % len(der) :][:16]
        elif at < len(der):
            der[at] = value
    ours = our_id(bytes(der), NOW)
    if ours is not None:
        try:
            theirs = expected_id(bytes(der), NOW)
        except ValueError:
            return  # what we do not look at (algorithms, names, the key) may be broken: TLS has verified that part
        except x509.UnsupportedGeneralNameType:
            return  # valid beside a URI, but x400Address and EDIPartyName are kinds that cryptography does not read
        assert ours == theirs


@settings(max_examples=tries(100))
@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    assert our_id(noise, NOW) is None
