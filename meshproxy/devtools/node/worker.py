"""One pod, from its first container to its end: carries out what `lifecycle` decides, and reports it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightkube.resources.core_v1 import ConfigMap, Pod, Secret

from meshproxy.control.cluster import FAILURES, http_status
from meshproxy.devtools.node import lifecycle, names, probes, sandbox, volumes
from meshproxy.devtools.node.fields import command_line, environment
from meshproxy.devtools.node.journal import Journal
from meshproxy.devtools.node.lifecycle import Deleted, Do, Ended, Event, HookEnded, Probed
from meshproxy.devtools.node.network import ADDRESS, Machine, PodNetwork
from meshproxy.devtools.node.probing import probe_of
from meshproxy.devtools.node.process import ContainerProcess
from meshproxy.devtools.node.spec import Container, not_possible, read_spec
from meshproxy.devtools.node.status import pod_status
from meshproxy.devtools.node.tokens import request_token
from meshproxy.devtools.node.volumes import Needed

if TYPE_CHECKING:
    from lightkube import AsyncClient

logger = logging.getLogger(__name__)

NOT_STARTED = 128
"""The exit status of a container whose process could not be started."""
PAUSE = 0.5
"""Seconds until the API server is asked again."""
REFRESH = 60.0
"""Seconds between two looks at what volumes are made of."""
RENEWED_AFTER = 0.8
"""Of the lifetime of a token."""


@dataclass(frozen=True, slots=True)
class Image:
    """What stands for an image: a command of this machine."""

    entry: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Site:
    """Where pods run.

    Attributes:
        images: by their names without a tag.
        folder: of the pods' files.
        needed: files that programs of images need, wherever they are.
        environment: variables that every container has.
        journal: how pods came to their ends.
    """

    client: AsyncClient
    machine: Machine
    images: Mapping[str, Image]
    folder: Path
    needed: Sequence[Path]
    environment: Mapping[str, str]
    journal: Journal = field(default_factory=Journal)


class PodWorker:
    """Runs one pod.

    Attributes:
        shown: the pod, as the API server has shown it last.
    """

    def __init__(self, site: Site, shown: Mapping[str, Any]) -> None:
        self.shown = dict(shown)
        self._site = site
        metadata = shown["metadata"]
        self._name, self._namespace, self._uid = metadata["name"], metadata["namespace"], metadata["uid"]
        self._spec = read_spec(shown["spec"])
        self._folder = site.folder / f"{self._namespace}-{self._name}-{self._uid[:8]}"
        self._network: PodNetwork | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._processes: dict[str, ContainerProcess] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens: dict[Needed, tuple[float, bytes]] = {}
        """Each with the time at which it is to be renewed."""
        self._status: dict[str, Any] = {}
        self._is_reported = asyncio.Event()
        self._is_reported.set()
        self._to_report = asyncio.Event()

    def log(self, container: str) -> Path:
        """The output of a container."""
        return self._folder / f"{container}.log"

    def _note(self, what: str, container: str = "") -> None:
        self._site.journal.note(f"{self._namespace}/{self._name}", what, container)

    def update(self, shown: Mapping[str, Any]) -> None:
        """The API server shows it anew."""
        was_deleted = self._is_deleted
        self.shown = {**shown, "status": self.shown.get("status", {})}
        if self._is_deleted:
            grace = shown["metadata"].get("deletionGracePeriodSeconds") or 0
            if not was_deleted:
                self._note(f"deleted, with {grace} s")
            self._events.put_nowait(Deleted(grace))

    @property
    def _is_deleted(self) -> bool:
        return "deletionTimestamp" in self.shown["metadata"]

    async def run(self) -> None:
        """Run the pod until it is deleted."""
        reporter = asyncio.ensure_future(self._report())
        try:
            if problems := not_possible(self._spec):
                text = f"the stand-in for a node has no {', '.join(problems)}"
                logger.error("pod cannot be run", extra={"fields": {"pod": self._name, "problem": text}})
                self._say({"phase": "Failed", "reason": "NotPossible", "message": text})
                while not self._is_deleted:
                    await self._events.get()
            elif await self._prepare():
                await self._live()
            await self._is_reported.wait()
            await self._remove()
        finally:
            reporter.cancel()
            await self._clear()

    async def _prepare(self) -> bool:
        """Make its network and its volumes. Returns False if it has been deleted before."""
        self._folder.mkdir()
        self._network = self._site.machine.add_pod()
        self.shown["status"] = {"podIP": self._network.address, "hostIP": ADDRESS}
        (self._folder / "resolv.conf").write_text(names.resolv_conf(self._namespace, ADDRESS))
        for volume in self._spec.volumes:
            folder = self._volume(volume["name"])
            folder.mkdir(parents=True)
            folder.chmod(0o777 if "emptyDir" in volume else 0o755)
        while not self._is_deleted:
            try:
                await self._fill_volumes()
            except FAILURES as error:  # what it names may come later
                logger.info("volumes", extra={"fields": {"pod": self._name, "problem": str(error)}})
                await asyncio.sleep(PAUSE)
            else:
                self._spawn(self._refresh_volumes())
                return True
        return False

    def _volume(self, name: str) -> Path:
        return self._folder / "volumes" / name

    async def _refresh_volumes(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            with contextlib.suppress(*FAILURES):
                await self._fill_volumes()

    async def _fill_volumes(self) -> None:
        """Raises one of FAILURES."""
        for volume in self._spec.volumes:
            if "emptyDir" not in volume:
                found = {needed: await self._find(needed) for needed in volumes.needed_for(volume)}
                volumes.write(self._volume(volume["name"]), volumes.files(volume, self.shown, found))

    async def _find(self, needed: Needed) -> Mapping[str, bytes]:
        """What a volume is made of. Raises one of FAILURES."""
        if needed.kind == "token":
            return {"token": await self._token(needed)}
        kind: Any = ConfigMap if needed.kind == "configMap" else Secret
        shown = await self._site.client.get(kind, needed.name, namespace=self._namespace)
        return volumes.contents({**shown.to_dict(), "kind": kind.__name__})

    async def _token(self, needed: Needed) -> bytes:
        renewed_at, token = self._tokens.get(needed, (0.0, b""))
        if time.time() >= renewed_at:
            made = await request_token(
                self._site.client,
                self._namespace,
                self._spec.service_account_name,
                audience=needed.name,
                seconds=needed.seconds,
                pod=(self._name, self._uid),
            )
            token = made.encode()
            self._tokens[needed] = time.time() + RENEWED_AFTER * needed.seconds, token
        return token

    async def _live(self) -> None:
        pod = lifecycle.begin(self._spec)
        while True:
            step = lifecycle.decide(self._spec, pod, time.time())
            pod = step.pod
            for do, name in step.actions:
                await self._do(do, self._spec.container(name), pod.containers[name].starts)
            assert self._network is not None
            before = self._status.get("conditions", ())
            processes = {name: each.pid for name, each in self._processes.items() if each.pid is not None}
            self._say(pod_status(self._spec, pod, self._network.address, ADDRESS, processes, before, time.time()))
            if step.is_over:
                return
            wait = None if step.wake_at is None else max(0.0, step.wake_at - time.time())
            try:
                async with asyncio.timeout(wait):  # wait_for of Python 3.11 may swallow the cancellation of this task
                    event = await self._events.get()
            except TimeoutError:
                continue
            pod = lifecycle.observe(self._spec, pod, event, time.time())

    async def _do(self, do: Do, container: Container, starts: int) -> None:
        if do is Do.START:
            await self._start(container)
        elif do is Do.HOOK:
            self._spawn(self._hook(container, starts))
        elif do is Do.TERMINATE:
            self._note("SIGTERM", container.name)
            self._processes[container.name].send(signal.SIGTERM)
        elif do is Do.KILL:
            process = self._processes[container.name]
            self._site.journal.note_killed(f"{self._namespace}/{self._name}", container.name, process.running())
            process.send(signal.SIGKILL)
        else:
            self._spawn(self._probe(do, container, starts))

    async def _start(self, container: Container) -> None:
        try:
            command, variables = self._command(container)
            process = await ContainerProcess.start(command, variables, self.log(container.name))
        except (OSError, ValueError) as error:
            fields = {"pod": self._name, "container": container.name, "problem": str(error)}
            logger.error("container did not start", extra={"fields": fields})
            self._events.put_nowait(Ended(container.name, NOT_STARTED))
            return
        self._processes[container.name] = process
        self._spawn(self._wait(container.name, process))

    def _command(self, container: Container) -> tuple[list[str], dict[str, str]]:
        """What runs a container, and its environment. Raises ValueError."""
        repository = container.image.rpartition(":")[0] or container.image
        image = self._site.images.get(repository)
        if image is None:
            raise ValueError(f"nothing stands for the image {container.image}")
        variables = environment(container, self.shown, {**self._site.environment, **image.environment})
        binds = [
            sandbox.Bind(self._volume(mount.name), mount.mount_path, mount.read_only)
            for mount in container.volume_mounts
        ]
        binds.append(sandbox.Bind(self._folder / "resolv.conf", "/etc/resolv.conf", is_read_only=True))
        scratch = self._folder / f"{container.name}.scratch"
        scratch.mkdir(exist_ok=True)
        command = sandbox.as_user(self._spec, container, command_line(container, image.entry, variables))
        text = sandbox.script(binds, sandbox.closed_folders(self._site.needed), scratch, command)
        assert self._network is not None
        return sandbox.first_process(self._network.path, text), variables

    async def _wait(self, name: str, process: ContainerProcess) -> None:
        code = await process.wait()
        self._note(f"ended with {code}", name)
        self._events.put_nowait(Ended(name, code))

    async def _run_in(self, container: Container, command: Sequence[str], timeout: float | None) -> int | None:
        process = self._processes[container.name]
        return await process.run(sandbox.as_user(self._spec, container, command), timeout)

    async def _run_hook(self, container: Container, command: Sequence[str], timeout: float | None) -> int | None:
        process = self._processes[container.name]
        log = self.log(f"{container.name}.hook")
        code = await process.run(sandbox.as_user(self._spec, container, command), timeout, log)
        self._note(f"the command of its preStop hook ended with {code}", container.name)
        return code

    async def _hook(self, container: Container, starts: int) -> None:
        assert self._network is not None
        hook = container.lifecycle.pre_stop
        assert hook is not None
        self._note("its preStop hook begins", container.name)
        await probes.hook(hook, container, self._network.address, partial(self._run_hook, container))
        self._note("its preStop hook is over", container.name)
        self._events.put_nowait(HookEnded(container.name, starts))

    async def _probe(self, do: Do, container: Container, starts: int) -> None:
        assert self._network is not None
        what = probe_of(container, do.value)
        assert what is not None
        is_success = await probes.probe(what, container, self._network.address, partial(self._run_in, container))
        self._events.put_nowait(Probed(container.name, starts, do.value, is_success))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._take)

    def _take(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error(
                "a part of the work on a pod has failed", exc_info=error, extra={"fields": {"pod": self._name}}
            )
            self._note(f"failed: {error!r}")

    def _say(self, status: dict[str, Any]) -> None:
        if status != self._status:
            self._status = status
            self._is_reported.clear()
            self._to_report.set()

    async def _report(self) -> None:
        """Write the newest status, until it is written."""
        while True:
            await self._to_report.wait()
            self._to_report.clear()
            content = {"metadata": {"uid": self._uid}, "status": self._status}
            try:
                await self._site.client.patch(Pod.Status, self._name, content, namespace=self._namespace)
            except FAILURES as error:
                if http_status(error) not in (404, 409):  # it is gone, or it is another one
                    self._to_report.set()
                    await asyncio.sleep(PAUSE)
                    continue
            if not self._to_report.is_set():
                self._is_reported.set()

    async def _remove(self) -> None:
        """The API server may forget it."""
        while True:
            try:
                await self._site.client.delete(Pod, self._name, namespace=self._namespace, grace_period=0)
            except FAILURES as error:
                if http_status(error) != 404:
                    await asyncio.sleep(PAUSE)
                    continue
            return

    async def _clear(self) -> None:
        for process in self._processes.values():
            process.send(signal.SIGKILL)
        for process in self._processes.values():
            await process.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._network is not None:
            self._site.machine.remove_pod(self._network)
