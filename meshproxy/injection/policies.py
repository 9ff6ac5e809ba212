"""Admission policies, which need no webhook: the same sidecar by a MutatingAdmissionPolicy, and no pods without one.

The sidecar is what `inject` gives a pod of each kind; the expressions decide which kind a pod is, and where its parts
go. What needs more than that (choices of a pod, a socket) is refused in words, not left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshproxy.injection.annotations import PREFIX
from meshproxy.injection.cel import literal, operation, text
from meshproxy.injection.drain_hook import grace_period
from meshproxy.injection.inject import GRACE_PERIOD, LABEL, MIRROR, Injected, inject
from meshproxy.injection.pod import MODEL_SERVER_PORTS, SIDECAR
from meshproxy.injection.probes import ADMIN_NAME, PORT_NAME
from meshproxy.injection.settings import ADMIN, INBOUND, OUTBOUND
from meshproxy.injection.webhook_configuration import outside_of, selectors

if TYPE_CHECKING:
    from meshproxy.injection.settings import Settings

NAME = "meshproxy-injector"
ENFORCE = "meshproxy.dev/enforce"
"""A label of namespaces: `true` refuses pods without sidecar."""
VERSION = "admissionregistration.k8s.io/v1"
_POD = "name-of-the-pod"
"""Where the name goes in the document of a sidecar."""
_CONTAINERS = "object.spec.containers"
_ALL_CONTAINERS = f"(object.spec.?initContainers.orValue([]) + {_CONTAINERS})"
_IMAGE = r"(^|/)tensorflow/serving([:@]|$)|(^|/)(tensorflow-serving|tf-serving)[^/]*$"
_PROGRAM = r"(^|/)tensorflow_model_server$"
_HAS_SIDECAR = f"{_ALL_CONTAINERS}.exists(c, c.name == {text(SIDECAR)})"
_TEMPLATES = (
    ("apps", ("deployments", "statefulsets", "daemonsets", "replicasets")),
    ("batch", ("jobs",)),
)


def injection_policies(settings: Settings) -> list[dict[str, Any]]:
    """The MutatingAdmissionPolicy with its bindings, and the ValidatingAdmissionPolicy that refuses what it cannot do.
    Kubernetes 1.36 and newer."""
    return [
        {
            "apiVersion": VERSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": NAME},
            "spec": {
                "matchConstraints": {"resourceRules": [_rule("", ("pods",))]},
                "matchConditions": [
                    {"name": name, "expression": expression} for name, expression in _gets_one().items()
                ],
                "variables": [
                    {"name": name, "expression": expression} for name, expression in _variables(settings).items()
                ],
                "mutations": [
                    {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}
                    for expression in _mutations(settings)
                ],
                "failurePolicy": "Fail",
                # With IfNeeded its own patch makes it run again. The condition that looks for the sidecar stays: others
                # may have put it in.
                "reinvocationPolicy": "Never",
            },
        },
        {
            "apiVersion": VERSION,
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": f"{NAME}-limits"},
            "spec": {
                "matchConstraints": {"resourceRules": [_rule("", ("pods",))]},
                "validations": [
                    {"expression": expression, "message": message, "reason": "Invalid"}
                    for message, expression in _limits().items()
                ],
                "failurePolicy": "Fail",
            },
        },
        *(
            {
                "apiVersion": VERSION,
                "kind": f"{kind}AdmissionPolicyBinding",
                "metadata": {"name": f"{name}-{which}"},
                "spec": {"policyName": name, **extra, "matchResources": selector},
            }
            for kind, name, extra in (
                ("Mutating", NAME, {}),
                ("Validating", f"{NAME}-limits", {"validationActions": ["Deny"]}),
            )
            for which, selector in selectors(settings.namespace).items()
        ),
    ]


def _rule(group: str, resources: tuple[str, ...], operations: tuple[str, ...] = ("CREATE",)) -> dict[str, Any]:
    return {
        "apiGroups": [group],
        "apiVersions": ["v1"],
        "operations": list(operations),
        "resources": list(resources),
        "scope": "Namespaced",
    }


def _gets_one() -> dict[str, str]:
    """What must hold for a pod to get a sidecar."""
    return {
        "no-sidecar-yet": f"!{_HAS_SIDECAR}",
        "own-network": "!object.spec.?hostNetwork.orValue(false)",
        "no-mirror": f"!({text(MIRROR)} in object.metadata.?annotations.orValue({{}}))",
        "linux": "object.spec.?os.?name.orValue('') != 'windows' && "
        "object.spec.?nodeSelector[?'kubernetes.io/os'].orValue('') != 'windows'",
    }


def _variables(settings: Settings) -> dict[str, str]:
    """What the expressions say more than once."""
    name = "object.metadata.?name.orValue(object.metadata.?generateName.orValue('pod'))"
    calls, serves = _injected(settings, serves=False), _injected(settings, serves=True)
    return {
        "servers": f"lists.range(size({_CONTAINERS})).filter(i, {_looks_like_one(f'{_CONTAINERS}[i]')})",
        "serves": "size(variables.servers) > 0",
        "hooked": "variables.serves && !object.spec.?shareProcessNamespace.orValue(false) && "
        "!object.spec.?hostPID.orValue(false) && "
        f"!has({_CONTAINERS}[variables.servers[0]].lifecycle)",
        "name": f"{name}.endsWith('-') ? {name}.substring(0, size({name}) - 1) : {name}",
        "annotations": f"variables.serves ? {_annotations(serves)} : {_annotations(calls)}",
        "sidecar": f"variables.serves ? {_container(serves)} : {_container(calls)}",
    }


def _looks_like_one(container: str) -> str:
    """It is a model server (`Container.is_model_server`)."""
    ports = literal(sorted(MODEL_SERVER_PORTS))
    return (
        f"{container}.?image.orValue('').matches({text(_IMAGE)}) || "
        f"{container}.?command[?0].orValue('').matches({text(_PROGRAM)}) || "
        f"{container}.?ports.orValue([]).exists(p, p.containerPort in {ports})"
    )


def _injected(settings: Settings, *, serves: bool) -> Any:
    """A pod as `inject` leaves it."""
    image = "tensorflow/serving" if serves else "application"
    content = {"metadata": {"name": _POD}, "spec": {"containers": [{"name": "container", "image": image}]}}
    result = inject(content, "default", settings)
    assert isinstance(result, Injected)
    return result.pod


def _annotations(pod: Any) -> str:
    parts = []
    for key, value in pod["metadata"]["annotations"].items():
        around = [text(part) for part in value.split(_POD)]
        parts.append(f"{text(key)}: {' + variables.name + '.join(around)}")
    return "{" + ", ".join(parts) + "}"


def _container(pod: Any) -> str:
    return literal(pod["spec"]["initContainers"][0])


def _mutations(settings: Settings) -> list[str]:
    """The patch, as `inject` makes it: what is absent is added whole, and what is there gets the new part first."""
    pod = _injected(settings, serves=True)
    volumes = pod["spec"]["volumes"]
    first = ", ".join(operation("add", text("/spec/volumes/0"), literal(each)) for each in reversed(volumes))
    add = operation("add", text("/spec/initContainers/0"), "variables.sidecar")
    whole = operation("add", text("/spec/initContainers"), "[variables.sidecar]")
    each = operation("add", "'/metadata/annotations/' + jsonpatch.escapeKey(key)", "dyn(variables.annotations[key])")
    hook = literal(pod["spec"]["containers"][0]["lifecycle"])
    grace = literal(pod["spec"]["terminationGracePeriodSeconds"])
    assert grace == str(grace_period(settings.drain_timeout))
    hooked = ", ".join(
        (
            operation("add", "'/spec/containers/' + string(variables.servers[0]) + '/lifecycle'", hook),
            operation(
                "add",
                text("/spec/terminationGracePeriodSeconds"),
                f"object.spec.?terminationGracePeriodSeconds.orValue({GRACE_PERIOD}) < {grace} ? {grace} : "
                "object.spec.terminationGracePeriodSeconds",
            ),
        )
    )
    made = operation("add", text("/metadata/annotations"), "variables.annotations")
    return [
        f"has(object.metadata.annotations) ? variables.annotations.map(key, {each}) : [{made}]",
        f"has(object.spec.volumes) ? [{first}] : [{operation('add', text('/spec/volumes'), literal(volumes))}]",
        f"has(object.spec.initContainers) ? [{add}] : [{whole}]",
        f"variables.hooked ? [{hooked}] : []",
    ]


def _limits() -> dict[str, str]:
    """What a policy cannot do, and what must hold so that it need not."""
    gets = " && ".join(f"({expression})" for name, expression in _gets_one().items() if name != "no-sidecar-yet")
    containers = f"{_CONTAINERS}.filter(c, c.name != {text(SIDECAR)})"
    others = f"{_ALL_CONTAINERS}.filter(c, c.name != {text(SIDECAR)})"
    ports = literal([INBOUND, OUTBOUND, ADMIN])
    names = literal([PORT_NAME, ADMIN_NAME])
    words = "(c.?command.orValue([]) + c.?args.orValue([]))"
    rules = {
        f"annotations {PREFIX}* are read by the injector's webhook only: take them away, or install the webhook": (
            f"!object.metadata.?annotations.orValue({{}}).exists(key, key.startsWith({text(PREFIX)}))"
        ),
        f"{PREFIX}* are annotations, not labels": (
            f"!object.metadata.?labels.orValue({{}}).exists(key, key.startsWith({text(PREFIX)}))"
        ),
        f"label {LABEL}: expected enabled or disabled": (
            f"object.metadata.?labels[?{text(LABEL)}].orValue('enabled') in ['enabled', 'disabled']"
        ),
        f"{LABEL} is a label, not an annotation": f"!({text(LABEL)} in object.metadata.?annotations.orValue({{}}))",
        "several containers look like TensorFlow Serving: only the injector's webhook can be told which one it is": (
            f"size({containers}.filter(c, {_looks_like_one('c')})) < 2"
        ),
        "--grpc_socket_path needs the injector's webhook: only the user of the socket can connect to it": (
            f"!{containers}.exists(c, {words}.exists(word, word.startsWith('--grpc_socket_path=')))"
        ),
        f"a container has a port of the sidecar: {INBOUND} ({PORT_NAME}), {OUTBOUND} or {ADMIN} ({ADMIN_NAME})": (
            f"!{others}.exists(c, c.?ports.orValue([]).exists(p, p.containerPort in {ports} || "
            f"p.?name.orValue('') in {names}))"
        ),
    }
    return {message: f"!({gets}) || {rule}" for message, rule in rules.items()}


def enforcement_policies(namespace: str) -> list[dict[str, Any]]:
    """ValidatingAdmissionPolicies for namespaces with the label `ENFORCE`: a pod without sidecar is refused, and
    whoever makes a Deployment of such pods is warned, which nothing else would tell.

    Args:
        namespace: of the control plane.
    """
    name = "meshproxy-enforce"
    said = f"the namespace has {ENFORCE}=true, and the pod has no sidecar"
    native = "c.?restartPolicy.orValue('') == 'Always'"
    has_sidecar = (
        f"object.spec.?initContainers.orValue([]).exists(c, c.name == {text(SIDECAR)} && {native}) || "
        f"{_CONTAINERS}.exists(c, c.name == {text(SIDECAR)})"
    )
    template = "object.spec.template"
    label = f"[?{text(LABEL)}].orValue('')"
    of_template = f"{template}.?metadata.?labels{label}"
    enabled = f"({of_template} == 'enabled' || namespaceObject.metadata.?labels{label} == 'enabled')"
    will_get = f"{of_template} != 'disabled' && {enabled} && !{template}.spec.?hostNetwork.orValue(false)"
    template_has = has_sidecar.replace("object.spec.", f"{template}.spec.")
    ignored = (
        f"its pods will be refused, as the namespace has {ENFORCE}=true and they get no sidecar: they or the namespace "
        f"need the label {LABEL}=enabled, and no hostNetwork"
    )
    policies = {
        name: (
            [_rule("", ("pods",))],
            has_sidecar,
            f"{said}: label the namespace or the pod {LABEL}=enabled, or see why it was left out",
            "Deny",
        ),
        f"{name}-templates": (
            [_rule(group, resources, ("CREATE", "UPDATE")) for group, resources in _TEMPLATES],
            f"{will_get} || {template_has}",
            ignored,
            "Warn",
        ),
    }
    selector = {"matchExpressions": [{"key": ENFORCE, "operator": "In", "values": ["true"]}, outside_of(namespace)]}
    return [
        each
        for policy, (rules, expression, message, action) in policies.items()
        for each in (
            {
                "apiVersion": VERSION,
                "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": policy},
                "spec": {
                    "matchConstraints": {"resourceRules": rules},
                    "validations": [{"expression": expression, "message": message, "reason": "Invalid"}],
                    "failurePolicy": "Fail",
                },
            },
            {
                "apiVersion": VERSION,
                "kind": "ValidatingAdmissionPolicyBinding",
                "metadata": {"name": policy},
                "spec": {
                    "policyName": policy,
                    "validationActions": [action],
                    "matchResources": {"namespaceSelector": selector},
                },
            },
        )
    ]
