"""An API server of Kubernetes as far as a watch needs it, in this process: objects of any kind, lists in pieces,
watches with a history. What it does is held against a real one by the tests of tests/e2e, which are the same."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, Self

from aiohttp import web

Object = dict[str, Any]
Key = tuple[str, str, str]
"""The path of the collection, the namespace, the name."""
NO_CREDENTIALS = {"exec": {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "false"}}
"""Of a user whose program that gets a token fails."""


@dataclass
class Event:
    version: int
    key: Key
    line: bytes
    shown: Object


@dataclass
class FakeApiServer:
    """Serves `/apis/GROUP/VERSION/namespaces/NAMESPACE/PLURAL` and what is below it, likewise `/api/v1`.

    Attributes:
        objects: what there is.
        requests: method and path of every request so far, with its query.
    """

    objects: dict[Key, Object] = field(default_factory=dict)
    requests: list[web.Request] = field(default_factory=list)
    version: int = 1000
    oldest: int = 1000
    """Watches from before this get 410."""
    status: int = 200
    """Anything else is the answer to every request."""
    url: str = ""

    def __post_init__(self) -> None:
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._streams: set[asyncio.Task[Any]] = set()
        self._names = count(1)
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        application = web.Application()
        for group in ("/api/v1", "/apis/{group}/{version}"):
            path = f"{group}/namespaces/{{namespace}}/{{plural}}"
            application.router.add_route("*", path, self._collection)
            application.router.add_route("*", f"{path}/{{name}}", self._one)
            application.router.add_route("PATCH", f"{path}/{{name}}/status", self._status)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Be away: every connection ends."""
        assert self._runner is not None
        self.end_watches()
        await self._runner.cleanup()

    def write_kubeconfig(self, folder: Path, namespace: str, user: Object | None = None) -> Path:
        """`user`: its credentials; None: it has none."""
        path = folder / "kubeconfig"
        content = {
            "current-context": "fake",
            # Without TLS: there is nothing to verify, so no authorities are read for it.
            "clusters": [{"name": "fake", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "fake", "user": user or {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
        }
        path.write_text(json.dumps(content))
        return path

    @property
    def watching(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    # Faults

    def end_watches(self) -> None:
        """Every stream ends, as after timeoutSeconds."""
        for stream in self._streams:
            stream.cancel()

    def compact(self) -> None:
        """Forget what happened until now: watches from before it get 410."""
        self._events.clear()
        self.oldest = self.version

    def restore(self, version: int) -> None:
        """Forget everything, and count from another version on, as after a restored backup."""
        self.objects.clear()
        self._events.clear()
        self.version = self.oldest = version

    def emit(self, kind: str, key: Key, shown: Object) -> None:
        """Send an event to watches, whatever there is."""
        line = json.dumps({"type": kind, "object": shown}, ensure_ascii=False).encode() + b"\n"
        self._events.append(Event(self.version, key, line, shown))
        news, self._news = self._news, asyncio.Event()
        news.set()

    # Requests

    async def _collection(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.status != 200:
            return _status(self.status, "as told")
        path = request.path
        if request.method == "POST":
            made = await request.json()
            name = made["metadata"].get("name") or f"{made['metadata']['generateName']}{next(self._names)}"
            key = (path, request.match_info["namespace"], name)
            if key in self.objects:
                return _status(409, f'{request.match_info["plural"]} "{name}" already exists')
            return web.json_response(self._put(key, made, "ADDED"), status=201)
        if request.query.get("watch") == "true":
            return await self._watch(request, path)
        found = [shown for key, shown in sorted(self.objects.items()) if key[0] == path and _is_asked(request, shown)]
        first = int(request.query.get("continue") or 0)
        end = first + int(request.query.get("limit") or len(found) or 1)
        metadata = {"resourceVersion": str(self.version)} | ({"continue": str(end)} if end < len(found) else {})
        return web.json_response({"kind": "List", "metadata": metadata, "items": found[first:end]})

    async def _watch(self, request: web.Request, path: str) -> web.StreamResponse:
        seen = int(request.query.get("resourceVersion") or self.version)
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            if seen < self.oldest:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return response
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 3_600)):
                sent = next((i for i, event in enumerate(self._events) if event.version > seen), len(self._events))
                while True:
                    news = self._news
                    for event in self._events[sent:]:
                        if event.key[0] == path and _is_asked(request, event.shown):
                            await response.write(event.line)
                    sent = len(self._events)
                    await news.wait()
        except (TimeoutError, asyncio.CancelledError):
            return response
        finally:
            self._streams.discard(task)

    async def _one(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if self.status != 200:
            return _status(self.status, "as told")
        path, _, name = request.path.rpartition("/")
        key = (path, request.match_info["namespace"], name)
        if request.method == "PATCH" and request.content_type == "application/merge-patch+json":
            return self._merge(key, await request.json())
        if request.method == "PATCH":  # server-side apply
            kind = "MODIFIED" if key in self.objects else "ADDED"
            return web.json_response(self._put(key, await request.json(), kind))
        if key not in self.objects:
            return _status(404, f'{request.match_info["plural"]} "{name}" not found')
        if request.method == "DELETE":
            self.version += 1
            gone = self.objects.pop(key)
            gone["metadata"]["resourceVersion"] = str(self.version)
            self.emit("DELETED", key, gone)
            return web.json_response({"kind": "Status", "status": "Success"})
        if request.method == "PUT":
            seen = (await request.json())["metadata"].get("resourceVersion")
            if seen not in (None, self.objects[key]["metadata"]["resourceVersion"]):
                return _status(409, "the object has been modified")
            return web.json_response(self._put(key, await request.json(), "MODIFIED"))
        return web.json_response(self.objects[key])

    def _merge(self, key: Key, patch: Object) -> web.Response:
        """A merge patch (RFC 7386) of `data`, on a version if it says one."""
        if key not in self.objects:
            return _status(404, "not found")
        shown = self.objects[key]
        if patch.get("metadata", {}).get("resourceVersion") not in (None, shown["metadata"]["resourceVersion"]):
            return _status(409, "the object has been modified")
        data = {**(shown.get("data") or {}), **patch["data"]}
        merged = {**shown, "data": {name: text for name, text in data.items() if text is not None}}
        return web.json_response(self._put(key, merged, "MODIFIED"))

    async def _status(self, request: web.Request) -> web.Response:
        """Server-side apply of a status: what is not given, and was by the same manager, goes."""
        self.requests.append(request)
        if self.status != 200:
            return _status(self.status, "as told")
        path, _, name = request.path.removesuffix("/status").rpartition("/")
        key = (path, request.match_info["namespace"], name)
        if key not in self.objects:
            return _status(404, "not found")
        before, status = self.objects[key], (await request.json())["status"]
        if before.get("status") == status:
            return web.json_response(before)
        return web.json_response(self._put(key, {**before, "status": status}, "MODIFIED"))

    def _put(self, key: Key, written: Mapping[str, Any], kind: str) -> Object:
        self.version += 1
        metadata = dict(written["metadata"])
        before = self.objects.get(key, {})
        generation = before["metadata"]["generation"] + (before.get("spec") != written.get("spec")) if before else 1
        metadata |= {"name": key[2], "namespace": key[1], "resourceVersion": str(self.version)}
        metadata["generation"] = generation
        metadata["uid"] = before["metadata"].get("uid") if before else str(self.version)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        metadata["creationTimestamp"] = before["metadata"]["creationTimestamp"] if before else now
        metadata["managedFields"] = [{"manager": "tests", "fieldsV1": {"f:spec": {}}}]
        shown = {"status": before.get("status"), **written, "metadata": metadata}
        self.objects[key] = shown
        self.emit(kind, key, shown)
        return shown


def _is_asked(request: web.Request, shown: Object) -> bool:
    """Whether an object has the labels that are asked for, in the form `LABEL in (ONE,OTHER)`."""
    selector = request.query.get("labelSelector")
    if not selector:
        return True
    label, _, values = selector.partition(" in ")
    return (shown["metadata"].get("labels") or {}).get(label) in values.strip("()").split(",")


def _status(code: int, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "code": code, "message": message}, status=code)
