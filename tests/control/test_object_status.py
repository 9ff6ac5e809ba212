"""What is said of an object."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meshproxy.config.servers import Service
from meshproxy.control.object_status import (
    MESSAGE_CHARACTERS,
    Reference,
    Sidecars,
    Verdict,
    reference_to,
    says,
    status_of,
)
from meshproxy.control_api import ServiceEndpoint, ServiceEndpoints

GOOD = Verdict(b"{}", (), is_in_force=True)
BAD = Verdict(b"{}", ("spec.server: no ModelServer named x",), is_in_force=False)
THEN, NOW = "2026-01-01T00:00:00Z", "2026-02-02T00:00:00Z"


def told(verdict: Verdict, before: Any = None, sidecars: Sidecars | None = None, now: str = NOW) -> dict[str, Any]:
    return status_of(verdict, sidecars or Sidecars(3, 2), 4, before or {}, now)


def test_an_object_that_is_in_force() -> None:
    assert told(GOOD) == {
        "conditions": [
            {
                "type": "Accepted",
                "status": "True",
                "observedGeneration": 4,
                "lastTransitionTime": NOW,
                "reason": "Accepted",
                "message": "",
            }
        ],
        "sidecars": {"concerned": 3, "updated": 2},
    }


def test_an_object_with_problems() -> None:
    (condition,) = told(BAD)["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "Invalid")
    assert condition["message"] == "spec.server: no ModelServer named x"
    assert told(BAD)["sidecars"] == {"concerned": 3, "updated": 0}  # nobody has this generation


def test_an_object_that_is_held_back_for_others() -> None:
    (condition,) = told(Verdict(b"{}", (), is_in_force=False))["conditions"]
    assert (condition["status"], condition["reason"]) == ("False", "HeldBack")
    assert condition["message"]


def test_an_old_generation_that_would_be_refused_today_is_not_accepted() -> None:
    (condition,) = told(Verdict(b"{}", ("why",), is_in_force=True))["conditions"]
    assert condition["status"] == "False"


def test_the_time_is_of_the_last_change_of_the_answer() -> None:
    before = told(GOOD, now=THEN)
    (condition,) = told(GOOD, before)["conditions"]
    assert condition["lastTransitionTime"] == THEN
    (condition,) = told(BAD, before)["conditions"]
    assert condition["lastTransitionTime"] == NOW


def test_what_is_said_already() -> None:
    before = told(GOOD, now=THEN)
    assert says(before, told(GOOD, before))
    assert not says(before, told(BAD, before))
    assert not says(before, told(GOOD, before, Sidecars(3, 3)))
    assert not says({}, told(GOOD))
    assert not says({"conditions": None}, told(GOOD))
    others = {"type": "Ready", "status": "True"}
    assert says({**before, "conditions": [others, *before["conditions"]]}, told(GOOD, before))
    assert not says({"conditions": [others]}, told(GOOD))


SERVICE = Service("serving", "models", sidecar="mesh")
READ = ServiceEndpoints("serving/models", "v")


def endpoints(*ports: str) -> ServiceEndpoints:
    return ServiceEndpoints("serving/models", "v", (ServiceEndpoint("10.0.0.1", dict.fromkeys(ports, 1), ""),))


@pytest.mark.parametrize(
    ("found", "is_known", "expected"),
    [
        (endpoints("mesh", "rest"), True, ("True", "ResolvedRefs", "")),
        (msgspec.structs.replace(READ, endpoints=endpoints("rest").endpoints + endpoints("mesh").endpoints), True,
         ("True", "ResolvedRefs", "")),  # one has it, as in the middle of a roll-out
        (READ, True, ("True", "ResolvedRefs", "")),  # no pod is ready: of its ports nothing is known
        (ServiceEndpoints("serving/models", problem="there is none"), True,
         ("False", "BackendNotFound", "there is none")),
        (endpoints("rest", "grpc"), True,
         ("False", "BackendNotFound",
          'Service serving/models: no endpoint has the TCP port "mesh"; there are: "grpc", "rest"')),
        (ServiceEndpoints("serving/models", problem="not read"), False, ("Unknown", "NotRead", "not read")),
    ],
)  # fmt: skip
def test_the_service_that_an_object_names(
    found: ServiceEndpoints, is_known: bool, expected: tuple[str, str, str]
) -> None:
    verdict = Verdict(b"{}", (), is_in_force=True, reference=reference_to(SERVICE, found, is_known=is_known))
    accepted, resolved = told(verdict)["conditions"]
    assert (accepted["type"], resolved["type"]) == ("Accepted", "ResolvedRefs")
    assert (resolved["status"], resolved["reason"], resolved["message"]) == expected
    assert resolved["observedGeneration"] == 4


def test_each_condition_has_a_time_of_its_own() -> None:
    missing = Verdict(b"{}", (), is_in_force=True, reference=Reference(is_found=False, problem="there is none"))
    before = told(missing, now=THEN)
    there = Verdict(b"{}", (), is_in_force=True, reference=Reference(is_found=True))
    assert [each["lastTransitionTime"] for each in told(there, before)["conditions"]] == [THEN, NOW]
    assert not says(before, told(there, before))


def test_of_what_is_not_in_force_nothing_is_resolved() -> None:
    held_back = Verdict(b"{}", (), is_in_force=False, reference=Reference(is_found=True))
    assert [each["type"] for each in told(held_back)["conditions"]] == ["Accepted"]


def test_a_message_has_an_end() -> None:
    problems = tuple(f"spec.rules[{number}]: " + "x" * 100 for number in range(1_000))
    message = told(Verdict(b"", problems, is_in_force=False))["conditions"][0]["message"]
    assert MESSAGE_CHARACTERS - 120 < len(message) < MESSAGE_CHARACTERS + 50
    shown = message.count("spec.rules")
    assert message.endswith(f"(and {1_000 - shown} more)")
    long = told(Verdict(b"", ("y" * 10_000, "z"), is_in_force=False))["conditions"][0]["message"]
    assert long == "y" * MESSAGE_CHARACTERS + "\n(and 2 more)"
