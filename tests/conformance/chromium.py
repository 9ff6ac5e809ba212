"""Chromium, driven through its DevTools protocol: pages, what they say in the console, pictures of them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.processes.waiting import PATIENCE

OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)

DRAWN = "performance.getEntriesByName('mesh-update').length > 0"
"""Of the page of the mesh: its graph is there."""


class Tab:
    """One page. `problems` are errors and warnings of its console, and exceptions."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        self._loaded = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            said = message.json()
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            elif said["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif said["method"] == "Log.entryAdded":
                entry = said["params"]["entry"]
                if entry["level"] in ("error", "warning"):
                    self.problems.append(f"{entry['text']} {entry.get('url', '')}")
            elif said["method"] == "Runtime.exceptionThrown":
                self.problems.append(str(said["params"]["exceptionDetails"]))

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol."""
        self._number += 1
        self._answers[self._number] = future = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        async with asyncio.timeout(60):
            answer = await future
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def open(self, url: str) -> None:
        """Go to a page, and wait until it has loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(60):
            await self._loaded.wait()

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; promises are awaited."""
        answer = await self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    async def until(self, script: str, seconds: float = PATIENCE) -> None:
        """Wait until an expression is true, also on a page that this one leads to."""
        async with asyncio.timeout(seconds):
            while True:
                with contextlib.suppress(RuntimeError):  # the page has just gone
                    if await self.run(script):
                        return
                await asyncio.sleep(0.05)

    async def look(self, width: int, height: int, *, is_dark: bool = False, scripts: bool = True) -> None:
        """How it is looked at."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    async def cpu(self) -> float:
        """Seconds of CPU that the page's own thread has taken: unlike times, the same on a machine that is busy."""
        answer = await self.call("Performance.getMetrics")
        return next(float(each["value"]) for each in answer["metrics"] if each["name"] == "TaskDuration")

    async def picture(self, path: Path) -> None:
        """As PNG."""
        answer = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(answer["data"]))

    async def close(self) -> None:
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reading


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser of its own. `folder`: for its profile."""
    process = await asyncio.create_subprocess_exec(
        "chromium", *OPTIONS, f"--user-data-dir={folder}", "about:blank", stderr=asyncio.subprocess.DEVNULL
    )
    said = folder / "DevToolsActivePort"
    try:
        async with asyncio.timeout(60):
            while not (said.exists() and "\n" in said.read_text()):
                await asyncio.sleep(0.05)
        port = said.read_text().partition("\n")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                [target] = [each for each in await answer.json() if each["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                for domain in ("Page", "Runtime", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.call("Performance.enable", timeDomain="threadTicks")
                yield tab
                await tab.close()
    finally:
        process.terminate()
        await process.wait()
