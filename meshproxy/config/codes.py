"""The code of every problem and warning of documents: what scripts, CI and `--suppress` go by.

Codes are a contract: a new problem gets a new code, and a number is never used again. The table of
docs/config-check.md is printed from them: `python -m meshproxy.config.codes`.
"""

from __future__ import annotations

import sys
from enum import StrEnum


class Severity(StrEnum):
    """How bad a problem is, the worst first."""

    ERROR = "error"
    """A sidecar does not take the documents."""
    WARNING = "warning"
    """A sidecar takes them, but they hardly mean what they say."""
    INFO = "info"
    """Worth knowing."""

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Code(StrEnum):
    """Number, severity, and what is wrong."""

    severity: Severity
    text: str

    def __new__(cls, number: str, severity: Severity, text: str) -> Code:
        made = str.__new__(cls, number)
        made._value_ = number
        made.severity = severity
        made.text = text
        return made

    # Reading files
    UNREADABLE = "MP0101", Severity.ERROR, "A file cannot be read, is too large, or is not YAML in UTF-8."
    AMBIGUOUS_YAML = (
        "MP0102", Severity.ERROR,
        "YAML that readers take for different things: a duplicate key, a tag, an unquoted `on`, `010` or `12:30`.",
    )  # fmt: skip
    TOO_MANY_PROBLEMS = "MP0103", Severity.ERROR, "A file has so many problems that the rest was not checked."
    # One document
    UNKNOWN_DOCUMENT = "MP0201", Severity.ERROR, "`apiVersion` or `kind` is missing, or is none of meshproxy."
    UNKNOWN_FIELD = "MP0202", Severity.ERROR, "A field that the kind does not have."
    MISSING_FIELD = "MP0203", Severity.ERROR, "A required field is missing."
    INVALID_VALUE = "MP0204", Severity.ERROR, "The value of a field has the wrong form or is out of range."
    CONFLICTING_FIELDS = "MP0205", Severity.ERROR, "Fields that exclude or require each other."
    # The documents together
    DUPLICATE = "MP0301", Severity.ERROR, "Two documents of one kind and name, or a second `MeshConfig` or `Sidecar`."
    MISSING_DOCUMENT = (
        "MP0302", Severity.ERROR,
        "No `MeshConfig` or no `Sidecar`. For a part of a set, such as a policy repository, use `--partial`.",
    )  # fmt: skip
    UNKNOWN_REFERENCE = "MP0303", Severity.ERROR, "A name of a role, server or issuer that there is not."
    OVERLAP = (
        "MP0304", Severity.ERROR,
        "Two routes for one pattern, two servers for one host, or two documents that choose the version of one call.",
    )  # fmt: skip
    IMPOSSIBLE = "MP0305", Severity.ERROR, "Something that no call could have or get, or that would do nothing."
    NO_IDENTITY = "MP0306", Severity.ERROR, "`mtls` requires a certificate that the `Sidecar` does not have."
    NO_CONTROL_PLANE = (
        "MP0307", Severity.ERROR,
        "Endpoints of a Kubernetes Service, and a `Sidecar` without a control plane that sends them.",
    )  # fmt: skip
    # A running sidecar
    NEEDS_RESTART = "MP0401", Severity.ERROR, "A change that a running sidecar cannot take over. Restart it."
    UNUSABLE_KEYS = "MP0402", Severity.ERROR, "The keys of a token issuer cannot be used."
    NOT_LOADED = "MP0403", Severity.ERROR, "The system failed to read a file, or the process that loads the documents."
    UNUSABLE_TLS = "MP0404", Severity.ERROR, "The files of `tls` in a `ModelServer` cannot be used."
    # Warnings about policy
    CLAIM = "MP0501", Severity.WARNING, "A claim that no token can have in the demanded form."
    FOREIGN_TRUST_DOMAIN = (
        "MP0502", Severity.WARNING,
        "A SPIFFE ID of a trust domain that the mesh does not trust: no certificate can prove it.",
    )  # fmt: skip
    UNBOUND_ROLE = "MP0503", Severity.WARNING, "A role that no binding names: it has no effect of its own."
    NOTHING_ALLOWED = (
        "MP0504", Severity.WARNING,
        "There is a role, and no binding allows anything: every call is denied.",
    )  # fmt: skip
    DENIES_EVERYONE = "MP0505", Severity.WARNING, "A `deny` binding whose subject matches every caller with a token."
    DENIES_ALLOWED = (
        "MP0506", Severity.WARNING,
        "A `deny` binding covers everything that an `allow` binding allows: `deny` overrides it.",
    )  # fmt: skip
    DENIES_ADMINISTRATORS = (
        "MP0507", Severity.WARNING,
        "A `deny` binding covers callers that another one allows a verb of administrators; models make no difference.",
    )  # fmt: skip
    MISSPELT_MODEL = (
        "MP0508", Severity.WARNING,
        "A role names a model that no route or server names, but a similar one that no role covers.",
    )  # fmt: skip
    NOT_A_PATTERN = (
        "MP0509", Severity.WARNING,
        "A regular expression where only `*` and `?` are special, a glob where nothing is, or spaces around a header.",
    )  # fmt: skip
    VERSION_OR_LABEL = (
        "MP0510", Severity.WARNING,
        "A version that is no whole number, as all of TensorFlow Serving are, or a label that is one.",
    )  # fmt: skip
    ANYBODY = (
        "MP0511", Severity.WARNING,
        "An `allow` binding that anybody can meet: by headers, from most addresses, or with a token that anybody gets.",
    )  # fmt: skip
    ROLE_PATH = (
        "MP0512", Severity.WARNING,
        "An IAM role with its path, where something is allowed or routed: the ARN of a session has none.",
    )  # fmt: skip
    NOWHERE = (
        "MP0513", Severity.WARNING,
        "A subject whose `notIpBlocks` exclude all of its `ipBlocks`: it never matches.",
    )  # fmt: skip
    NO_WORKLOADS = (
        "MP0514", Severity.WARNING,
        "A subject with a `workload`, and `mtls: disabled`: no caller has one, so it never matches.",
    )  # fmt: skip
    # Warnings about traffic and files
    WEIGHTS = "MP0601", Severity.WARNING, "The weights of a split do not add up to 100. They are shares of their sum."
    TIMEOUTS = "MP0602", Severity.WARNING, "A time limit of a part is beyond that of the whole, so it never applies."
    MISSING_FILE = "MP0603", Severity.WARNING, "A file that a document names is not there, or cannot be read."
    OTHER_MESH = (
        "MP0604", Severity.WARNING,
        "A document of Istio, Linkerd or another mesh. It is skipped; the message says what takes its place.",
    )  # fmt: skip
    CORS = (
        "MP0605", Severity.WARNING,
        "`cors` with `mtls: strict`: a browser presents no client certificate with a preflight.",
    )  # fmt: skip
    UNCOVERED_MODEL = (
        "MP0606", Severity.WARNING,
        "A model that inbound routes or health checks name, and no role that is allowed covers: nobody may call it.",
    )  # fmt: skip
    SERVER_METRICS = (
        "MP0607", Severity.WARNING,
        "`telemetry.modelServer`, and a page that cannot be read or relayed: no `rest`, many endpoints, no permit.",
    )  # fmt: skip
    UNLISTED_MODEL = (
        "MP0608", Severity.WARNING,
        "A model that inbound routes, rollouts or health checks name, and that no `ModelServer` lists in `models`.",
    )  # fmt: skip
    UNREAD_NAME = (
        "MP0609", Severity.WARNING,
        "A document in a file that no sidecar reads: its name ends with none of our suffixes, or begins with a dot.",
    )  # fmt: skip
    COOKIE = (
        "MP0610", Severity.WARNING,
        "A cookie that calls are placed by, and that browsers refuse, or in which an issuer's tokens are.",
    )  # fmt: skip
    SUCCESS_RATE = (
        "MP0611", Severity.WARNING,
        "A bound of `request-success-rate` that is no percentage, or that a version without failures breaks.",
    )  # fmt: skip
    IDLE = "MP0612", Severity.WARNING, "A setting that changes nothing, because of another one or for want of it."
    NOT_TRIED_AGAIN = (
        "MP0613", Severity.WARNING,
        "`tryTimeout` beside `retries` whose `reasons` leave `timeout` out: an attempt that it ends is not retried.",
    )  # fmt: skip
    NAMESPACES = (
        "MP0614", Severity.WARNING,
        "A document in another namespace than most: a control plane reads the objects of one namespace.",
    )  # fmt: skip
    # Information
    NO_ROLE = (
        "MP0701", Severity.INFO,
        "Without a `ModelRole` every caller may call every model; only the verbs of administrators are denied.",
    )  # fmt: skip
    PARTIAL = (
        "MP0702", Severity.INFO,
        "A part of a set was checked: what it refers to in the other documents is not known.",
    )  # fmt: skip
    SKIPPED = (
        "MP0703", Severity.INFO,
        "Documents of other applications, which were skipped. A sidecar takes no file with them.",
    )  # fmt: skip


BY_NUMBER = {str(code): code for code in Code}


def page() -> str:
    """The table of docs/config-check.md, as Markdown."""
    lines = ["| code | severity | meaning |", "|---|---|---|"]
    lines += [f"| `{code}` | {code.severity} | {code.text} |" for code in Code]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
