"""How single values of a document are written: durations, sizes, addresses, names, globs, SPIFFE ids, URLs.

Each reader takes what YAML or JSON made of the value and returns what the program works with, or raises `ValueError`
with a sentence for the author of the document. Nothing here knows about files, lines or documents.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshproxy.codec.headers import FRAMING

if TYPE_CHECKING:
    from pathlib import Path

# `re` compiles these when the first document needs them: a sidecar imports this, and reads none itself.
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_DURATION = rf"(?=.)(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?"
_DURATION_UNITS = (3600.0, 60.0, 1.0, 0.001)
_SIZE = r"([0-9]{1,15})(?:([KMG])i(?:B)?)?"
_SIZE_UNITS = {None: 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*"
_HOST_NAME = r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
"""RFC 1123, and underscores: Compose services are named like `tf_serving`, and resolvers look such names up."""
_ENDS_IN_NUMBER = r"(?:.*\.)?(?:[0-9]+|0[xX][0-9A-Fa-f]*)\.?"
_LOOKED_UP = r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?"
_HEADER_NAME = r"[a-z0-9!#$%&'*+.^_`|~-]{1,256}"
_COOKIE_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}"
_COOKIE_PATH = r"/[\x21-\x3a\x3c-\x7e]{0,1023}"
_VERSION = r"[A-Za-z0-9][A-Za-z0-9._~-]{0,255}"
_WHOLE_VERSION = r"0|[1-9][0-9]{0,18}"
_TRUST_DOMAIN = r"[a-z0-9._-]{1,255}"
_SPIFFE_SEGMENT = r"[A-Za-z0-9._-]+"
_LINKERD_IDENTITY = r"(?P<account>[a-z0-9.-]+)\.(?P<namespace>[a-z0-9-]+)\.serviceaccount\.identity\.[a-z0-9.-]+"
_ROLE_ARN = r"arn:aws[a-z-]{0,20}:iam::(?:[0-9]{12}|[a-z][a-z0-9.-]{0,62}):role/[A-Za-z0-9_+=,.@/-]{1,576}"
_URL = r"(https?)://([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?(/[\x21-\x7e]*)?"
_LOAD_BALANCER = (
    r"arn:(?:aws|aws-cn|aws-us-gov):elasticloadbalancing:[a-z]{2}(?:-[a-z]{2,12}){1,3}-[0-9]{1,2}"
    r":[0-9]{12}:loadbalancer/app/[A-Za-z0-9-]{1,32}/[0-9a-f]{16}"
)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

GLOB_LENGTH = 256
GLOB_STARS = 8
"""Matching costs at most (stars x length of the name); no family of models needs more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen or connect: a host (name or IP address, IPv6 without brackets) and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def shown(value: object, limit: int = 60) -> str:
    """A value as it may stand in a message: quoted, on one line, cut to about `limit` characters."""
    if isinstance(value, str):
        text = ascii(value[:limit])[1:-1]
        return f'"{text[: 2 * limit]}"' + ("..." if len(value) > limit or len(text) > 2 * limit else "")
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    return "a list" if isinstance(value, list | tuple) else "a mapping"


def read_duration(value: object) -> float:
    """Seconds, above 0 and at most a day. `"250ms"`, `"5s"`, `"1m30s"`, or a number of seconds."""
    seconds = read_duration_or_zero(value)
    if seconds == 0:
        raise ValueError("must be greater than 0; omit the field to disable the limit")
    return seconds


def read_duration_or_zero(value: object) -> float:
    """Seconds, from 0 to a day."""
    return _read_seconds(value, 86_400, "a day")


def read_lifetime(value: object) -> float:
    """Seconds, above 0 and at most 366 days: for what lives longer than a request or a connection."""
    seconds = _read_seconds(value, 366 * 86_400, "366 days (8784h)")
    if seconds == 0:
        raise ValueError("must be greater than 0")
    return seconds


def _read_seconds(value: object, most: int, called: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(_DURATION, value)):
        seconds = sum([float(part or 0) * unit for part, unit in zip(match.groups(), _DURATION_UNITS, strict=True)])
    else:
        raise ValueError(
            f'expected a duration such as "250ms", "5s" or "1m30s", or a number of seconds, got {shown(value)}'
        )
    if not 0 <= seconds <= most:
        raise ValueError(f"{shown(value)} is out of range: expected 0 to {called}")
    return seconds


def read_size(value: object) -> int:
    """Bytes. A whole number, or one with `KiB`, `MiB` or `GiB` (the `B` may be left out, as Kubernetes does)."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(_SIZE, value)):
        size = int(match[1]) * _SIZE_UNITS[match[2]]
    else:
        raise ValueError(f'expected a size such as 65536, "64KiB" or "4MiB", got {shown(value)}')
    if not 0 <= size < 1 << 63:
        raise ValueError(f"{shown(value)} is out of range: expected 0 to 2^63 - 1 bytes")
    return size


def read_count(value: object) -> int:
    """A whole number from 1 to a million."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {shown(value)}")
    if not 1 <= value <= 1_000_000:
        raise ValueError(f"{value} is not between 1 and 1,000,000")
    return value


def read_rate(value: object) -> float:
    """A number per second, above 0 and at most a million."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {shown(value)}")
    if not 0 < value <= 1_000_000:
        raise ValueError(f"{value} is not above 0 and at most 1,000,000")
    return float(value)


def read_percent(value: object) -> float:
    return _read_number(value, 100)


def read_ratio(value: object) -> float:
    return _read_number(value, 1)


def _read_number(value: object, most: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {shown(value)}")
    if not 0 <= value <= most:
        raise ValueError(f"{value} is not between 0 and {most}")
    return float(value)


def read_weight(value: object) -> int:
    """A share of a sum: from 0 to a million."""
    return _read_whole(value, 0, 1_000_000)


def read_port(value: object) -> int:
    """Where something can be reached: from 1 to 65535."""
    return _read_whole(value, 1, 65_535)


def read_http_status(value: object) -> int:
    """The status of an error."""
    return _read_whole(value, 400, 599)


def _read_whole(value: object, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {shown(value)}")
    if not least <= value <= most:
        raise ValueError(f"{value} is not between {least:,} and {most:,}")
    return value


def read_host_name(value: object) -> str:
    """A host name in lower case, without the dot that may end it."""
    if isinstance(value, str) and len(value) <= 253 and re.fullmatch(_HOST_NAME, value):
        return value.lower().removesuffix(".")
    raise ValueError(f"expected a host name, got {shown(value)}")


def ends_in_number(host: str) -> bool:
    """Whether a resolver may read a host name as an IPv4 address, such as `127.1` or `0x7f000001`, and another one not
    (WHATWG URL section 3.5)."""
    return re.fullmatch(_ENDS_IN_NUMBER, host) is not None


def read_dns_name(value: object) -> str:
    """A name to look up, in lower case. The dot that ends it stays: it says that the name is whole."""
    if isinstance(value, str) and len(value) <= 254 and re.fullmatch(_LOOKED_UP, value):
        return value.lower()
    raise ValueError(f"expected a DNS name, got {shown(value)}")


def read_header_name(value: object) -> str:
    """The name of a request header, in lower case: one that is left of a request when it has been read."""
    name = _header_name(value)
    if name == "host":
        raise ValueError('"host" is not compared: calls go by their model, and outbound by "hosts" of a ModelServer')
    if not _is_left(name):
        raise ValueError(f"{shown(name)} is no header of a request that was read: none would ever be found")
    return name


def _header_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(_HEADER_NAME, value):
        return value
    raise ValueError(f"expected a header name in lower case, got {shown(value)}")


def _is_left(name: str) -> bool:
    return name != "traceparent" and name.encode() not in FRAMING


def read_condition_header(value: object) -> str:
    """The name of a header on which access may depend: one that is left of a request when it has been read."""
    name = _header_name(value)
    if name == "authorization":
        raise ValueError('"authorization" is not compared: name what the token must be like under "token"')
    is_ours = name.startswith("x-meshproxy-") or name == "x-forwarded-client-cert"
    if is_ours or not _is_left(name):
        raise ValueError(f"{shown(name)} says nothing about the caller, and is no header of a request that was read")
    return name


def read_cookie_name(value: object) -> str:
    """The name of a cookie (RFC 6265 section 4.1.1: a token)."""
    if isinstance(value, str) and re.fullmatch(_COOKIE_NAME, value):
        return value
    raise ValueError(f"expected the name of a cookie, got {shown(value)}")


def read_cookie_path(value: object) -> str:
    """The `Path` of a cookie."""
    if isinstance(value, str) and re.fullmatch(_COOKIE_PATH, value):
        return value
    raise ValueError(f'expected a path that begins with "/", without ";" and white space, got {shown(value)}')


def read_version(value: object) -> str:
    """The version of a model, as text: a whole number of 63 bits (tensorflow_serving/apis/model.proto), or a name of
    letters, digits and `.`, `_`, `~`, `-` for servers whose versions are text.

    What consists of digits is a number, and has one form: `03` is refused, or a rule for it would fit no call.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
        if not is_whole_version(value):
            raise ValueError(f"{value} is not between 0 and 2^63 - 1")
        return value
    if isinstance(value, float):
        raise ValueError(f"expected a whole number or text, got {shown(value)}: write text in quotes")
    if not isinstance(value, str) or not re.fullmatch(_VERSION, value):
        raise ValueError(
            f'expected a version, such as 3 or "2024-06-rc1" (letters, digits and . _ ~ -), got {shown(value)}'
        )
    if value.isdigit() and not is_whole_version(value):
        raise ValueError(f"{shown(value)} is not a whole number from 0 to 2^63 - 1 without leading zeros")
    return value


def is_whole_version(version: str) -> bool:
    """It is a whole number that TensorFlow Serving can have as a version, in its one form."""
    return re.fullmatch(_WHOLE_VERSION, version) is not None and int(version) < 1 << 63


def read_listen_address(value: object) -> Address:
    """`IP:PORT`. Port 0 lets the system choose. A host name is refused: what it resolves to may change or be
    several."""
    address = _read_address(value)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ValueError(
            f'expected an IP address and a port, such as "0.0.0.0:18500" or "[::]:18500", got {shown(value)}'
        ) from None
    return address


def read_endpoint_address(value: object) -> Address:
    """`HOST:PORT` to connect to: an IP address or a host name."""
    address = _read_address(value)
    if address.port == 0:
        raise ValueError(f"port 0 cannot be connected to, in {shown(value)}")
    return address


def _read_address(value: object) -> Address:
    expected = f'expected "HOST:PORT", such as "127.0.0.1:8500" or "[::1]:8500", got {shown(value)}'
    if not isinstance(value, str):
        raise ValueError(expected)
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(expected)
    if host.startswith("[") and host.endswith("]"):
        try:
            return Address(str(ipaddress.IPv6Address(host[1:-1])), int(port))
        except ValueError:
            raise ValueError(f"{shown(host)} is not an IPv6 address, in {shown(value)}") from None
    if re.fullmatch(r"[0-9.]+", host):
        try:
            return Address(str(ipaddress.IPv4Address(host)), int(port))
        except ValueError:
            raise ValueError(f"{shown(host)} is not an IPv4 address, in {shown(value)}") from None
    if not re.fullmatch(_HOST_NAME, host) or len(host) > 253:
        raise ValueError(expected)
    if ends_in_number(host):
        raise ValueError(f"{shown(host)} ends in a number: write the IPv4 address or a host name, in {shown(value)}")
    return Address(host, int(port))


def read_name(value: object) -> str:
    """A name as Kubernetes takes it for objects: an RFC 1123 subdomain of at most 253 characters."""
    if isinstance(value, str) and len(value) <= 253 and re.fullmatch(_DNS_NAME, value):
        return value
    raise ValueError(f'expected a name in lower-case letters, digits, "-" and ".", got {shown(value)}')


def read_label(value: object) -> str:
    """A name as Kubernetes takes it for Services and namespaces: an RFC 1123 label of at most 63 characters."""
    if isinstance(value, str) and re.fullmatch(_DNS_LABEL, value):
        return value
    raise ValueError(f'expected a name in lower-case letters, digits and "-", got {shown(value)}')


def read_port_name(value: object) -> str:
    """The name of a port of a Service; a Service with a single port may leave it without a name."""
    if isinstance(value, str) and (not value or re.fullmatch(_DNS_LABEL, value)):
        return value
    hint = ": the port's name, not its number" if isinstance(value, int) and not isinstance(value, bool) else ""
    raise ValueError(f'expected the name of a port of the Service, or "" if that has none, got {shown(value)}{hint}')


def read_name_glob(value: object) -> str:
    """A name as `read_name` takes it, or a glob over such names: `*` is any run of characters, `?` is any one."""
    if isinstance(value, str) and ("*" in value or "?" in value):
        glob = read_glob(value)
        if re.fullmatch(r"[a-z0-9.*?-]+", glob):
            return glob
        raise ValueError(
            f'expected a name or a glob in lower-case letters, digits, "-", ".", "*" and "?", got {shown(value)}'
        )
    return read_name(value)


def read_glob(value: object) -> str:
    """A model name, or a glob over model names: `*` is any run of characters, `?` is any one, everything else matches
    itself."""
    if not isinstance(value, str):
        raise ValueError(f"expected a model name or a glob, got {shown(value)}")
    if not value:
        raise ValueError('an empty name matches no model; use "*" to match every model')
    if len(value) > GLOB_LENGTH:
        raise ValueError(f"longer than {GLOB_LENGTH} characters")
    if not value.isprintable():
        raise ValueError(f"{shown(value)} contains a control character or a line break")
    if "**" in value:
        raise ValueError(f'{shown(value)}: "**" is the same as "*"; write "*"')
    if value.count("*") > GLOB_STARS:
        raise ValueError(f'{shown(value)} has more than {GLOB_STARS} "*"')
    return value


def read_model_name(value: object) -> str:
    """The name of one model."""
    name = read_glob(value)
    if "*" in name or "?" in name:
        raise ValueError(f"expected the name of one model, got the glob {shown(value)}")
    if len(name.encode()) > GLOB_LENGTH:
        raise ValueError(f"longer than {GLOB_LENGTH} bytes")
    return name


def read_trust_domain(value: object) -> str:
    """A SPIFFE trust domain name (SPIFFE-ID section 2.1)."""
    if isinstance(value, str) and re.fullmatch(_TRUST_DOMAIN, value):
        return value
    raise ValueError(
        f'expected a trust domain such as "prod.example" (lower case, digits, ".", "-", "_"), got {shown(value)}'
    )


def read_spiffe_id(value: object) -> str:
    """A SPIFFE id with a path (SPIFFE-ID section 2): `spiffe://TRUST-DOMAIN/SEGMENT/...`, compared byte for byte."""
    if not isinstance(value, str) or not value.startswith("spiffe://"):
        raise ValueError(
            f'expected a SPIFFE id such as "spiffe://prod.example/ns/pricing/sa/quoter", got {shown(value)}'
            + (_identity_hint(value) if isinstance(value, str) else "")
        )
    domain, *segments = value.removeprefix("spiffe://").split("/")
    if len(value) > 2048:
        raise ValueError("longer than the 2048 bytes that a SPIFFE id may have")
    if not re.fullmatch(_TRUST_DOMAIN, domain):
        raise ValueError(f"{shown(domain)} is not a trust domain, in {shown(value)}")
    if not segments:
        raise ValueError(f"{shown(value)} names a trust domain, not a workload: a path must follow")
    for segment in segments:
        if not re.fullmatch(_SPIFFE_SEGMENT, segment) or segment in (".", ".."):
            raise ValueError(
                f'{shown(segment)} is not a path segment of a SPIFFE id, in {shown(value)} ("*" is not supported)'
            )
    return value


def _identity_hint(text: str) -> str:
    """What to write for the identity of another mesh, or a name of DNS."""
    if (match := re.fullmatch(_LINKERD_IDENTITY, text)) is not None:
        return (
            f": of this identity of Linkerd, write namespace: {match['namespace']}, serviceAccount: {match['account']}"
        )
    if "/ns/" in text and "/sa/" in text:
        return f': write "spiffe://{text}"'
    if re.fullmatch(_DNS_NAME, text.lower().removeprefix("*.")):
        return ": a DNS name names a server, and no certificate of a workload is believed because of one"
    return ""


def read_role_arn(value: object) -> str:
    """The ARN of an IAM role, as a token of AWS STS names it: `arn:aws:iam::ACCOUNT:role/PATH/NAME`. The account is its
    number, or its name in `aws.accounts` of the MeshConfig."""
    if isinstance(value, str) and re.fullmatch(_ROLE_ARN, value):
        return value
    raise ValueError(f'expected a role ARN, such as "arn:aws:iam::123456789012:role/quoter", got {shown(value)}')


def read_url(value: object) -> str:
    """An `https` URL; `http` is accepted for loopback only."""
    url = read_any_url(value)
    if url.startswith("http:") and not is_loopback(host_of(url)):
        raise ValueError(f"{shown(url)} would be fetched in plaintext: use https")
    return url


def host_of(url: str) -> str:
    """The host of a URL that `read_any_url` has read, without brackets."""
    match = re.fullmatch(_URL, url)
    assert match is not None
    return match[2].strip("[]")


def is_loopback(host: str) -> bool:
    """Whether a host is this one, by the names that need no look-up."""
    return host in _LOOPBACK


def read_account_id(value: object) -> str:
    """The number of an AWS account: twelve digits, as text, since it may begin with 0."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{12}", value):
        return value
    raise ValueError(f'expected the number of an AWS account in quotes, such as "123456789012", got {shown(value)}')


def read_load_balancer(value: object) -> str:
    """The ARN of an Application Load Balancer of AWS."""
    if isinstance(value, str) and re.fullmatch(_LOAD_BALANCER, value):
        return value
    example = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/models/50dc6c495c0c9188"
    raise ValueError(f'expected the ARN of an Application Load Balancer, such as "{example}", got {shown(value)}')


def read_any_url(value: object) -> str:
    """An `https` or `http` URL."""
    expected = f'expected a URL such as "https://login.example/keys", got {shown(value)}'
    if not isinstance(value, str) or len(value) > 2048:
        raise ValueError(expected)
    match = re.fullmatch(_URL, value)
    if not match or "#" in value or int((match[3] or ":0")[1:]) > 65535:
        raise ValueError(expected)
    return value


def read_issuer(value: object) -> str:
    """The `iss` of tokens: any text without white space (RFC 7519 section 4.1.1), compared character for character."""
    if isinstance(value, str) and re.fullmatch(r"[\x21-\x7e]{1,2048}", value):
        return value
    raise ValueError(f'expected the "iss" of the issuer\'s tokens, usually an https URL, got {shown(value)}')


def read_text(value: object) -> str:
    """Printable text of 1 to 1024 characters."""
    if isinstance(value, str) and 0 < len(value) <= 1024 and value.isprintable():
        return value
    if isinstance(value, str):
        raise ValueError(f"expected 1 to 1024 printable characters, got {shown(value)}")
    raise ValueError(f"expected text, got {shown(value)}" + _quote_hint(value))


def read_regex(value: object) -> str:
    """A regular expression that can be matched in linear time (`regex`)."""
    from meshproxy.config.regex import compile_regex  # few documents have one

    text = read_text(value)
    compile_regex(text)
    return text


def read_path(value: object) -> str:
    """A path of the file system."""
    text = read_text(value)
    if text.endswith("/"):
        raise ValueError(f"expected a file, got the folder {shown(value)}")
    return text


def resolve_path(folder: Path, path: str) -> str:
    """The path, from the folder of the document on unless it is absolute."""
    return str(folder / path)


def read_access_log(value: object) -> str:
    """`stdout`, `off`, or the path of a file, which must contain a `/` so that a typo does not name a file."""
    text = read_path(value)
    if text == "/dev/stdout":  # Envoy's; it cannot be opened if it is a socket, as under systemd, or another user's
        return "stdout"
    if text in ("stdout", "off") or "/" in text:
        return text
    raise ValueError(
        f'expected "stdout", "off" or a path with a "/" in it (such as "./access.log"), got {shown(value)}'
    )


def resolve_access_log(folder: Path, text: str) -> str:
    """As `resolve_path`, if it is one."""
    return text if text in ("stdout", "off") else resolve_path(folder, text)


def _quote_hint(value: object) -> str:
    return f': write it in quotes, "{shown(value)}"' if isinstance(value, int | float) else ""
