"""What a cluster lacks before meshproxy is installed in it, and what to do about it: from facts to findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meshproxy.config import crds, schema
from meshproxy.config.values import shown
from meshproxy.control.crd_changes import Definition, changes_of
from meshproxy.control.finding import Finding, Unknown, agreeing_clocks, judged, some
from meshproxy.control.fleet import Level
from meshproxy.injection.inject import LABEL
from meshproxy.injection.settings import NATIVE_SIDECARS, read_release
from meshproxy.installation.choices import Injection
from meshproxy.installation.kinds import POLICIES, TOKEN_REVIEWS, VERBS, Right, escalations, kinds
from meshproxy.installation.rights import RBAC

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshproxy.installation.kinds import Plan

OLDEST = (1, 30)
"""The first release that serves ValidatingAdmissionPolicies in v1, which `meshproxy install` makes."""
OLDEST_FOR_POLICY = (1, 36)
"""The first release that serves MutatingAdmissionPolicies in v1."""
LEVEL_LABEL = "pod-security.kubernetes.io/enforce"
SERVER, RIGHTS, KINDS, NAMESPACES, NODES = "API server", "rights", "our kinds", "namespaces", "nodes"
_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is looked at of a namespace."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    is_ending: bool = False


@dataclass(frozen=True, slots=True)
class Object:
    """Where something is, and what it is called: a pod, or a document."""

    namespace: str
    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """What is looked at of a node.

    Attributes:
        kubelet: its version.
        has_ipv6: an address or a range of its pods is of IPv6.
    """

    name: str
    kubelet: str
    has_ipv6: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What an API server says.

    Attributes:
        release: its version.
        clock_ahead: seconds by which its clock is ahead of this host's.
        served: the resources of each version of a group; none if it is not served.
        rights: whether whoever asks has them.
        definitions: of our kinds, by name. None: there is none.
        documents: the objects of each of our kinds, by the name of its definition, in all namespaces.
        misled_pods: the pods of all namespaces with another word than those that count as `LABEL`.
        token_review: why it reviews no tokens; empty if it does.
    """

    release: str | Unknown
    clock_ahead: float | Unknown
    served: Mapping[str, frozenset[str] | Unknown]
    rights: Mapping[Right, bool | Unknown]
    definitions: Mapping[str, Definition | Unknown | None]
    documents: Mapping[str, Sequence[Object] | Unknown]
    misled_pods: Sequence[Object] | Unknown
    namespaces: Sequence[Namespace] | Unknown
    nodes: Sequence[Node] | Unknown
    token_review: str | Unknown


@dataclass(frozen=True, slots=True)
class Note:
    """Something that cannot be judged from outside of the cluster.

    Attributes:
        what: should be so.
        text: why it is not judged, and how to find out.
    """

    what: str
    text: str


def precheck(facts: Facts | Unknown, plan: Plan) -> list[Finding]:
    """The findings of every check that can be made.

    Args:
        facts: Unknown: the API server cannot be asked anything.
        plan: what is to be installed.
    """
    answers = "the API server answers"
    if isinstance(facts, Unknown):
        hint = "look at --kubeconfig and --context: kubectl cluster-info"
        return [Finding(SERVER, answers, Level.ERROR, facts.why, hint)]
    return [
        Finding(SERVER, answers),
        _release(facts.release, plan),
        _clock(facts.clock_ahead),
        *_served(facts, plan),
        _token_review(facts),
        *_rights(facts, plan),
        *_definitions(facts),
        _documents(facts.documents, plan),
        *_namespaces(facts.namespaces, plan),
        _pods(facts.misled_pods),
        *_nodes(facts.nodes, plan),
    ]


def _unknown(section: str, check: str, unknown: Unknown, hint: str) -> Finding:
    """A check that could not be made is not passed."""
    return Finding(section, check, Level.WARNING, f"{_UNKNOWN}: {unknown.why}", hint)


def _release(release: str | Unknown, plan: Plan) -> Finding:
    by_policy = plan.injection is Injection.POLICY
    oldest = OLDEST_FOR_POLICY if by_policy else OLDEST
    lowest = "{}.{}".format(*oldest)
    check = f"its release is {lowest} or newer"
    if isinstance(release, Unknown):
        return _unknown(SERVER, check, release, "kubectl version")
    try:
        is_old = read_release(release) < oldest
    except ValueError as error:
        return _unknown(SERVER, check, Unknown(str(error)), "kubectl version")
    kind = "MutatingAdmissionPolicy" if by_policy else "ValidatingAdmissionPolicy"
    problem = f"it is {release}, and {kind} is there in v1 from {lowest} on" if is_old else ""
    other = "take --injector webhook" if by_policy else "put sidecars in with `meshproxy inject --kubernetes 1.28`"
    return judged(SERVER, check, problem, f"upgrade the cluster, or {other}")


def _clock(ahead: float | Unknown) -> Finding:
    check = "its clock agrees with this host's"
    if isinstance(ahead, Unknown):
        return _unknown(SERVER, check, ahead, "compare them by hand: certificates are valid for a time only")
    return agreeing_clocks(SERVER, check, ahead)


def _served(facts: Facts, plan: Plan) -> Iterator[Finding]:
    """Whether every kind that is to be made is known, by group and version."""
    wanted: dict[str, list[str]] = {}
    for kind in (*kinds(plan), TOKEN_REVIEWS):
        wanted.setdefault(kind.api_version, []).append(kind.resource)
    for api_version, resources in wanted.items():
        check = f"it serves {api_version}"
        served = facts.served[api_version]
        if isinstance(served, Unknown):
            yield _unknown(SERVER, check, served, f"kubectl api-resources --api-group={api_version.split('/')[0]}")
            continue
        missing = ", ".join(each for each in resources if each not in served)
        problem = f"without {missing}" if served else "neither this group nor this version is there"
        yield judged(SERVER, check, problem if missing else "", _hint_of_group(api_version))


def _hint_of_group(api_version: str) -> str:
    if api_version.startswith("cert-manager.io/"):
        return "install cert-manager before, or leave out --cert-manager: the control plane makes the certificate"
    if api_version == POLICIES:
        return "upgrade the cluster, or see which APIs are switched off (--runtime-config of the API server)"
    return "see which APIs are switched off (--runtime-config of the API server): kubectl api-versions"


def _token_review(facts: Facts) -> Finding:
    check = "it reviews tokens, by which pods get their identities"
    if isinstance(facts.token_review, Unknown):
        hint = "kubectl auth can-i create tokenreviews, or ask a cluster administrator: the control plane will need it"
        return _unknown(SERVER, check, facts.token_review, hint)
    hint = "or let pods join by the keys of the cluster: `meshproxy control run --service-account-keys`"
    return judged(SERVER, check, facts.token_review, f"see the log of the API server, {hint}")


def _rights(facts: Facts, plan: Plan) -> Iterator[Finding]:
    """Whether whoever asks may make every kind."""
    hint = "take another context (--context), or let a cluster administrator apply what `meshproxy install` prints"
    for kind in kinds(plan):
        where = f" in {plan.namespace}" if kind.is_namespaced else ""
        check = f"you may apply {kind.full_name}{where}"
        answers = {verb: facts.rights[kind.right(verb, plan.namespace)] for verb in VERBS}
        unknown = next((each for each in answers.values() if isinstance(each, Unknown)), None)
        denied = ", ".join(verb for verb, answer in answers.items() if answer is False)
        if denied:
            yield Finding(RIGHTS, check, Level.ERROR, f"not allowed: {denied}", hint)
        elif unknown is not None:
            yield _unknown(RIGHTS, check, unknown, f"kubectl auth can-i create {kind.full_name}")
        else:
            yield Finding(RIGHTS, check)
    yield _escalation(facts, plan)


def _escalation(facts: Facts, plan: Plan) -> Finding:
    """The API server lets nobody give rights away that they have not, but those who may escalate."""
    check = "you may give the control plane rights that you have not yourself"
    answers = {right: facts.rights[right] for right in escalations(plan.namespace)}
    denied = ", ".join(f"{right.verb} {right.resource}" for right, answer in answers.items() if answer is False)
    hint = "without it roles are refused unless you hold each right in them: kubectl apply --dry-run=server says so"
    if denied:
        return Finding(RIGHTS, check, Level.WARNING, f"not allowed: {denied} ({RBAC})", hint)
    unknown = next((each for each in answers.values() if isinstance(each, Unknown)), None)
    return _unknown(RIGHTS, check, unknown, hint) if unknown is not None else Finding(RIGHTS, check)


def _definitions(facts: Facts) -> Iterator[Finding]:
    """Whether definitions of our kinds that are there already get along with those of this release."""
    for kind in schema.KINDS:
        name = crds.definition_name(kind)
        check = f"{name} is not there, or is this release's"
        live = facts.definitions[name]
        if isinstance(live, Unknown):
            yield _unknown(KINDS, check, live, f"kubectl get crd {name}")
        elif live is None:
            yield Finding(KINDS, check)
        else:
            changes = changes_of(live, msgspec.convert(crds.definition(kind), Definition))
            whose = f" (it has the label of {changes.release})" if changes.release else ""
            if changes.blocking:
                yield Finding(KINDS, check, Level.ERROR, some(changes.blocking) + whose, changes.hint)
            elif changes.lost:
                text = f"these fields would be dropped from objects: {some(changes.lost)}{whose}"
                yield Finding(KINDS, check, Level.WARNING, text, "look first: meshproxy upgrade")
            else:
                problem = f"its schema is another one{whose}" if changes.is_different else ""
                yield judged(KINDS, check, problem, "see what would change: meshproxy upgrade", Level.WARNING)


def _documents(documents: Mapping[str, Sequence[Object] | Unknown], plan: Plan) -> Finding:
    """Whether somebody reads every document: a `deny` in the namespace of an application is in force nowhere."""
    check = f"all documents are in the namespace {plan.namespace}"
    found, unknown = [], None
    for name, objects in documents.items():
        if isinstance(objects, Unknown):
            unknown = objects
        else:
            found += [f"{name}/{each.name} in {each.namespace}" for each in objects if each.namespace != plan.namespace]
    if unknown is not None and not found:
        return _unknown(KINDS, check, unknown, "kubectl get meshproxy -A")
    problem = f"no control plane of {plan.namespace} reads {some(found)}" if found else ""
    hint = "make them there, unless another mesh has its control plane where they are: kubectl get meshproxy -A"
    return judged(KINDS, check, problem, hint, Level.WARNING)


def _namespaces(namespaces: Sequence[Namespace] | Unknown, plan: Plan) -> Iterator[Finding]:
    free = f"the namespace {plan.namespace} can be used"
    worded = f"{LABEL} of namespaces is a label that says enabled or disabled"
    alone = "no other mesh injects where we do"
    admitted = "Pod Security admits pods with traffic capture"
    if isinstance(namespaces, Unknown):
        for check in (free, worded, alone, *([admitted] if plan.capture else [])):
            yield _unknown(NAMESPACES, check, namespaces, "kubectl get namespaces --show-labels")
        return
    is_ending = any(each.is_ending for each in namespaces if each.name == plan.namespace)
    hint = f"wait until it is gone: kubectl get namespace {plan.namespace} -o yaml says what holds it"
    yield judged(NAMESPACES, free, "it is being deleted" if is_ending else "", hint)
    namespaces = [each for each in namespaces if not each.is_ending]  # the others take no more pods
    # Other meshes have `true`, or an annotation. The API server asks for `enabled` alone.
    wrong = [
        f"{each.name} (label {shown(each.labels[LABEL])})"
        for each in namespaces
        if each.labels.get(LABEL, "enabled") not in ("enabled", "disabled")
    ]
    wrong += [f"{each.name} (an annotation)" for each in namespaces if LABEL in each.annotations]
    problem = f"pods get no sidecars: {some(wrong)}" if wrong else ""
    hint = f"kubectl label --overwrite namespace NAME {LABEL}=enabled, or disabled; and take the annotation away"
    yield judged(NAMESPACES, worded, problem, hint, Level.WARNING)
    ours = [each for each in namespaces if each.labels.get(LABEL) == "enabled"]
    both = [f"{each.name} ({mesh})" for each in ours for mesh in other_meshes(each)]
    problem = f"pods would get two sidecars: {some(both)}" if both else ""
    yield judged(NAMESPACES, alone, problem, "take one of the two labels or annotations away", Level.WARNING)
    if plan.capture:
        levels = {each.name: each.labels.get(LEVEL_LABEL, "privileged") for each in ours}
        refusing = [f"{name} enforces {level}" for name, level in levels.items() if level != "privileged"]
        problem = f"its init container needs NET_ADMIN: {some(refusing)}" if refusing else ""
        hint = f"label them {LEVEL_LABEL}=privileged, or do without capture: sidecars themselves meet `restricted`"
        yield judged(NAMESPACES, admitted, problem, hint)


def _pods(misled: Sequence[Object] | Unknown) -> Finding:
    """Whether pods are labelled with a word that counts: the API server asks nobody about others, where the namespace
    has no label."""
    check = f"{LABEL} of pods says enabled or disabled"
    if isinstance(misled, Unknown):
        return _unknown(NAMESPACES, check, misled, f"kubectl get pods -A -L {LABEL}")
    found = [f"{each.name} in {each.namespace} (label {shown(each.labels.get(LABEL, ''))})" for each in misled]
    problem = f"they have no sidecars, or keep those that they have: {some(found)}" if found else ""
    hint = f"label the template of their Deployment or Job {LABEL}=enabled, or disabled"
    return judged(NAMESPACES, check, problem, hint, Level.WARNING)


def other_meshes(namespace: Namespace) -> list[str]:
    """The meshes that put sidecars into pods of a namespace, or lead their traffic away."""
    labels, annotations = namespace.labels, namespace.annotations
    found = []
    if labels.get("istio-injection") == "enabled" or "istio.io/rev" in labels:
        found.append("Istio")
    elif labels.get("istio.io/dataplane-mode") == "ambient":
        found.append("Istio ambient")
    if annotations.get("linkerd.io/inject") in ("enabled", "ingress"):
        found.append("Linkerd")
    if labels.get("kuma.io/sidecar-injection") in ("enabled", "true"):
        found.append("Kuma")
    return found


def _nodes(nodes: Sequence[Node] | Unknown, plan: Plan) -> Iterator[Finding]:
    if not plan.is_native:
        return
    lowest = "{}.{}".format(*NATIVE_SIDECARS)
    check = f"the kubelets start native sidecars ({lowest} and newer)"
    hint = "upgrade these nodes, or take --kubernetes 1.28 for all: sidecars are ordinary containers then"
    if isinstance(nodes, Unknown):
        yield _unknown(NODES, check, nodes, "kubectl get nodes -o wide")
        return
    if not nodes:
        yield _unknown(NODES, check, Unknown("there are no nodes"), "add some, and check again")
        return
    old, unread = [], []
    for node in nodes:
        try:
            if read_release(node.kubelet) < NATIVE_SIDECARS:
                old.append(f"{node.name} has {node.kubelet}")
        except ValueError:
            unread.append(f"{node.name} has {node.kubelet!r}")
    if old:
        level = Level.ERROR if len(old) == len(nodes) else Level.WARNING
        text = f"{len(old)} of {len(nodes)} do not, and pods with a sidecar do not start there: {some(old)}"
        yield Finding(NODES, check, level, text, hint)
    elif unread:
        yield _unknown(NODES, check, Unknown(f"no version can be read: {some(unread)}"), "kubectl get nodes -o wide")
    else:
        yield Finding(NODES, check)


def notes(facts: Facts | Unknown, plan: Plan) -> list[Note]:
    """What nobody can judge from outside of the cluster, and how to find out; nothing if not even the rest was."""
    if isinstance(facts, Unknown):
        return []
    found = []
    if plan.injection is Injection.WEBHOOK:
        found.append(
            Note(
                "the API server reaches the webhook",
                f"only the API server can tell: let its host connect to port 18511 of pods in {plan.namespace}, also"
                " through the firewall of a managed control plane. Afterwards: kubectl run --dry-run=server in a"
                " labelled namespace",
            )
        )
    if plan.listen == "[::]" and not (
        not isinstance(facts.nodes, Unknown) and facts.nodes and all(node.has_ipv6 for node in facts.nodes)
    ):
        found.append(
            Note(
                "the nodes' kernels have IPv6 (--listen [::])",
                "not all nodes show an address of IPv6, and need none: on a node, /proc/net/if_inet6 must be there. If"
                " it is not, take --listen 0.0.0.0",
            )
        )
    found.append(
        Note(
            "the network plugin enforces NetworkPolicies",
            "the API server accepts them whether or not anybody does: see the documentation of the plugin",
        )
    )
    if plan.capture:
        found.append(
            Note(
                "Pod Security admits traffic capture where namespaces have no label",
                "the default is in the API server's own configuration: kubectl run --dry-run=server tells",
            )
        )
    elsewhere = [
        f"{each.name} ({mesh})"
        for each in (() if isinstance(facts.namespaces, Unknown) else facts.namespaces)
        if each.labels.get(LABEL) != "enabled"
        for mesh in other_meshes(each)
    ]
    if elsewhere:
        text = f"another mesh injects there: {some(elsewhere)}. Label no namespace for both"
        found.append(Note("namespaces of other meshes stay theirs", text))
    return found
