"""Flagger's Canary (flagger.app/v1beta1) -> ModelRollout, and a ModelServer for each of its two Services."""

from __future__ import annotations

from typing import Any

from meshproxy.config.values import read_url
from meshproxy.migration.source import Kind, Source, Translation

GROUP = "flagger.app/"
METRICS = ("request-success-rate", "request-duration")
HOOKS = ("confirm-rollout", "pre-rollout", "confirm-traffic-increase", "confirm-promotion", "post-rollout", "event")
REASONS = {
    "provider": "meshproxy moves the traffic itself",
    "targetRef": "Flagger copies a Deployment; here both versions are there, as NAME-primary and NAME-canary",
    "autoscalerRef": "replicas are not changed by a rollout",
    "ingressRef": "",
    "alerts": "alert rules are in deploy/prometheus",
    "iterations": "there are no A/B tests: a share of the calls, or sticky keys",
    "match": "a ModelRoute with match keeps certain calls apart",
    "mirror": "mirror of a ModelRoute",
    "mirrorWeight": "mirror of a ModelRoute",
    "skipAnalysis": "each rollout is judged",
    "revertOnDeletion": "without the document the stable version has all calls",
    "templateRef": "metrics are those that sidecars measure",
    "templateVariables": "metrics are those that sidecars measure",
    "query": "metrics are those that sidecars measure",
    "stepWeightPromotion": "a candidate that has passed its last step has all calls",
    "retries": "retries of a ModelRoute",
    "timeout": "timeout of a ModelRoute",
}


def canary(source: Source, name: str, namespace: str, model: str | None, translation: Translation) -> None:
    """Translate one Canary.

    Args:
        namespace: of the Services, where the document names none.
        model: the model that calls name; None: of the name of the target.
    """
    spec = source.part("spec")
    if spec is None:
        source.note("", Kind.REFUSED, "there is no spec")
        return
    target = spec.part("targetRef")
    if target is not None:
        target.value("apiVersion"), target.value("kind")
    called = str((target.value("name") if target is not None else None) or name)
    service = spec.part("service")
    host = str((service.value("name") if service is not None else None) or called)
    _servers(service, host, namespace, translation)
    if model is None:
        spec.note(
            "targetRef", Kind.DIFFERENT, f'a rollout is of a model: "{called}" is taken for its name; --model gives it'
        )
    analysis = spec.part("analysis") or spec.part("canaryAnalysis")
    translation.add(
        "ModelRollout",
        name,
        {
            "model": model or called,
            "stable": {"server": f"{host}-primary"},
            "candidate": {"server": f"{host}-canary"},
            "analysis": _analysis(analysis) if analysis is not None else None,
            "webhooks": [hook for each in analysis.parts("webhooks") if (hook := _webhook(each))] if analysis else [],
            "sticky": _sticky(analysis) if analysis is not None else None,
            "progressDeadline": _deadline(spec),
            "paused": True if spec.value("suspend") else None,
        },
    )
    source.finish(REASONS)


def _servers(service: Source | None, host: str, namespace: str, translation: Translation) -> None:
    port = service.value("port") if service is not None else None
    port_name = str((service.value("portName") if service is not None else None) or "http")
    if service is not None:
        service.value("targetPort")  # of the pods: the Service has the other one
        service.note("port", Kind.DIFFERENT, "a Service has one address: a headless one makes every pod an endpoint")
    surface = "grpc" if port_name.startswith("grpc") else "rest"
    for arm in ("primary", "canary"):
        spec = {"dns": {"name": f"{host}-{arm}.{namespace}.svc.cluster.local", surface: port or 8501}}
        translation.add("ModelServer", f"{host}-{arm}", spec)
    if service is not None and not service.has("port"):
        service.note("", Kind.DIFFERENT, "no port: 8501 is assumed")


def _analysis(analysis: Source) -> dict[str, Any]:
    threshold = analysis.value("threshold")
    if threshold == 0:
        analysis.note("threshold", Kind.DIFFERENT, "0 is taken as 1: the first failed window rolls back")
    analysis.note("interval", Kind.DIFFERENT, "a window without enough calls is held here; Flagger counts it as failed")
    return {
        "mode": "thresholds",  # Flagger's way; `sequential` is the better one
        "interval": analysis.value("interval"),
        "threshold": max(int(threshold), 1) if isinstance(threshold, int) else None,
        "stepWeight": analysis.value("stepWeight"),
        "maxWeight": analysis.value("maxWeight"),
        "stepWeights": analysis.value("stepWeights"),
        "metrics": [metric for each in analysis.parts("metrics") if (metric := _metric(each)) is not None],
    }


def _metric(metric: Source) -> dict[str, Any] | None:
    name = metric.value("name")
    bounds = metric.part("thresholdRange")
    limits = {side: bounds.value(side) for side in ("min", "max")} if bounds is not None else {}
    if name not in METRICS:
        metric.note("name", Kind.LEFT_OUT, f"{name} is none that sidecars measure")
        metric.read_all()
        return None
    if metric.has("threshold"):  # before thresholdRange: of a rate the least, of a duration the most
        limits = {"min" if name == METRICS[0] else "max": metric.value("threshold")}
    if metric.has("interval"):
        metric.note("interval", Kind.DIFFERENT, "all metrics have the window of the analysis")
    return {"name": name, "thresholdRange": limits}


def _webhook(hook: Source) -> dict[str, Any] | None:
    kind = hook.value("type") or "rollout"
    if kind not in HOOKS:
        why = "a control plane rolls back by itself, and meshproxy rollout abort does" if kind == "rollback" else ""
        hook.note("type" if hook.has("type") else "", Kind.LEFT_OUT, why or f"there is no hook of type {kind}")
        hook.read_all()
        return None
    try:
        read_url(hook.value("url"))
    except ValueError as error:
        hook.note("url", Kind.REFUSED, str(error))
        hook.read_all()
        return None
    fields = {name: hook.value(name) for name in ("name", "type", "url", "timeout", "retries")}
    metadata = hook.value("metadata")
    return fields | {
        "metadata": {key: str(item) for key, item in metadata.items()} if isinstance(metadata, dict) else None
    }


def _sticky(analysis: Source) -> dict[str, Any] | None:
    affinity = analysis.part("sessionAffinity")
    if affinity is None:
        return None
    seconds = affinity.value("maxAge")
    ttl = f"{seconds}s" if isinstance(seconds, int) and 0 < seconds <= 86_400 else None
    return {"by": "cookie", "cookie": {"name": affinity.value("cookieName"), "ttl": ttl}}


def _deadline(spec: Source) -> str | None:
    seconds = spec.value("progressDeadlineSeconds")
    if not isinstance(seconds, int):
        return None
    spec.note("progressDeadlineSeconds", Kind.DIFFERENT, "a step that is held so long is an alert, and no rollback")
    return f"{min(max(seconds, 1), 86_400)}s"
