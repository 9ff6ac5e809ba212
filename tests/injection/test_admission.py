from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproxy.injection.admission import MESSAGE_CHARACTERS, WARNING_CHARACTERS, Outcome, Verdict, decide, too_large
from tests.injection.pods import SETTINGS, apply_patch, injected, pod
from tests.injection.reviews import review


def response(verdict: Verdict) -> dict[str, Any]:
    """The response, which has what every response must have."""
    answer = json.loads(verdict.body)
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    found: dict[str, Any] = answer["response"]
    assert isinstance(found["uid"], str)
    assert ("patch" in found) == ("patchType" in found)
    if not found["allowed"]:
        assert "patch" not in found
        assert 400 <= found["status"]["code"] < 500
        assert found["status"]["message"]
    return found


def test_a_pod_gets_its_sidecar() -> None:
    verdict = decide(review(), SETTINGS)
    found = response(verdict)
    assert verdict.outcome is Outcome.INJECTED
    assert found["uid"] == "705ab4f5-6393-11e8-b7cc-42010a800002"
    assert (found["allowed"], found["patchType"]) == (True, "JSONPatch")
    patched = apply_patch(pod(), json.loads(base64.b64decode(found["patch"])))
    assert patched == injected(pod()).pod
    assert verdict.fields == {"pod": "the pod web-...", "namespace": "serving"}


def test_a_pod_that_stays_as_it_is() -> None:
    verdict = decide(review(pod(hostNetwork=True)), SETTINGS)
    assert (verdict.outcome, response(verdict)["allowed"]) == (Outcome.SKIPPED, True)
    assert "hostNetwork" in str(verdict.fields["reason"])
    assert decide(review(namespace="kube-system"), SETTINGS).outcome is Outcome.SKIPPED
    twice = decide(review(injected(pod()).pod), SETTINGS)  # reinvocationPolicy: IfNeeded
    assert (twice.outcome, "patch" in response(twice)) == (Outcome.SKIPPED, False)


def test_a_refusal_names_the_pod_by_its_owner_and_what_is_wrong() -> None:
    content = pod(annotations={"config.meshproxy.dev/workers": "none"})
    content["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web-5d9"}]
    verdict = decide(review(content), SETTINGS)
    status = response(verdict)["status"]
    assert (verdict.outcome, status["code"], status["reason"]) == (Outcome.REFUSED, 422, "Invalid")
    assert status["message"] == (
        "the pod web-... of ReplicaSet web-5d9 cannot have a sidecar: config.meshproxy.dev/workers: expected a whole "
        'number from 1 to 64, got "none"'
    )


def test_warnings_arrive() -> None:
    """The API server drops one with a line break or a tab, and cuts long ones."""
    content = pod(shareProcessNamespace=True, container={"name": "x" * 400})
    (warning,) = response(decide(review(content), SETTINGS))["warnings"]
    assert len(warning) == WARNING_CHARACTERS
    assert warning.isprintable()
    assert "warnings" not in response(decide(review(), SETTINGS))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no AdmissionReview"),
        (b"[]", "no AdmissionReview"),
        (b"\xff\xfe", "no AdmissionReview"),
        (b"[" * 100_000, "no AdmissionReview"),
        (b'{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}', "no AdmissionReview"),
        (review().replace(b"admission.k8s.io/v1", b"admission.k8s.io/v1beta1"), "admissionReviewVersions"),
        (review().replace(b'"AdmissionReview"', b'"ConversionReview"'), "no AdmissionReview"),
        (review(kind={"group": "apps", "version": "v1", "kind": "Deployment"}), "CREATE of Deployment"),
        (review(operation="UPDATE"), "UPDATE of Pod"),
        (review(subResource="ephemeralcontainers"), "check the webhook's rules"),
    ],
)
def test_what_is_no_review_of_a_new_pod_is_refused_in_words(body: bytes, message: str) -> None:
    verdict = decide(body, SETTINGS)
    status = response(verdict)["status"]
    assert (verdict.outcome, status["code"], status["reason"]) == (Outcome.UNREADABLE, 400, "BadRequest")
    assert message in status["message"]
    assert status["message"].isprintable()


def test_the_uid_is_returned_where_there_is_one() -> None:
    """The API server takes no answer with another one."""
    foreign = review(operation=1, uid="a-b")
    assert response(decide(foreign, SETTINGS))["uid"] == "a-b"
    assert response(decide(b'{"request": {"uid": 1}}', SETTINGS))["uid"] == ""


@pytest.mark.parametrize("value", ["[]", "{}", '""', "1", '{"a":1}', '"\\\\"'])
def test_more_values_than_a_pod_can_have_are_not_made(value: str) -> None:
    """Whoever reaches the webhook may send 8 MiB of them: 350 MB of lists, and 18 s of work."""
    content = review().decode()
    many = ",".join([value] * 600_000)
    verdict = decide(content.replace('"object":', f'"x":[{many}],"object":', 1).encode(), SETTINGS)
    found = response(verdict)
    assert (verdict.outcome, found["status"]["code"]) == (Outcome.UNREADABLE, 413)
    assert "more than 250000 values" in found["status"]["message"]
    assert found["uid"] == "705ab4f5-6393-11e8-b7cc-42010a800002"


def test_marks_within_strings_are_no_values() -> None:
    content = pod(annotations={"numbers": "1,2,[{" * 100_000 + '"\\'})
    assert decide(review(content), SETTINGS).outcome is Outcome.INJECTED


def test_no_pod_and_a_huge_one() -> None:
    contents: tuple[Any, ...] = ({}, [], {"metadata": {"generateName": 1}}, "pod")
    for content in contents:
        assert decide(review(content), SETTINGS).outcome is Outcome.REFUSED
    assert response(decide(review({}), SETTINGS))["status"]["message"].startswith("the pod without a name cannot have")
    assert response(too_large())["status"]["code"] == 413
    wrong = pod(annotations={f"config.meshproxy.dev/{number}": "" for number in range(1_000)})
    assert len(response(decide(review(wrong), SETTINGS))["status"]["message"]) == MESSAGE_CHARACTERS


@given(st.binary(max_size=60))
def test_any_bytes_get_a_response(body: bytes) -> None:
    response(decide(body, SETTINGS))


@given(st.integers(0, len(review()) - 1), st.binary(min_size=1, max_size=1))
def test_a_review_with_another_byte_gets_a_response(at: int, byte: bytes) -> None:
    response(decide(review()[:at] + byte + review()[at + 1 :], SETTINGS))
