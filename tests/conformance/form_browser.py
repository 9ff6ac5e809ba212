"""A browser without scripts: cookies, redirects, and the forms that people fill in."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import TracebackType
from urllib.parse import urljoin

import aiohttp
from yarl import URL

MOST_REDIRECTS = 12


@dataclass
class Form:
    """What it sends: the fields that are filled in, but for buttons."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class _Reader(HTMLParser):
    """Finds forms and links."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.links: dict[str, str] = {}
        self._link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("method", "get").upper(), given.get("action", "")))
        is_button = tag == "button" or given.get("type") == "submit"
        if tag in ("input", "button") and self.forms and given.get("name") and not is_button:
            self.forms[-1].fields[given["name"]] = given.get("value", "")
        self._link = given.get("href") if tag == "a" else self._link

    def handle_endtag(self, tag: str) -> None:
        self._link = None if tag == "a" else self._link

    def handle_data(self, data: str) -> None:
        if self._link is not None and data.strip():
            self.links[data.strip()] = self._link


@dataclass(frozen=True)
class Shown:
    """A page as it came."""

    url: str
    status: int
    text: str
    asked: tuple[str, ...]
    """The addresses that led to it, and its own."""

    @property
    def forms(self) -> list[Form]:
        return self._read().forms

    def link(self, text: str) -> str:
        """Where the link with this text leads."""
        return urljoin(self.url, self._read().links[text])

    def _read(self) -> _Reader:
        reader = _Reader()
        reader.feed(self.text)
        return reader


class FormBrowser:
    """One person's. Use as an async context manager.

    Args:
        issuer: on this host, whose cookies are sent to it though they are `Secure`, as browsers do there.
    """

    def __init__(self, issuer: str) -> None:
        self._issuer = URL(issuer).origin()
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> FormBrowser:
        jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=self._issuer)
        self._session = aiohttp.ClientSession(cookie_jar=jar)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def open(self, url: str, stop: str = "") -> Shown:
        """A page, and what it leads to; but for an address that begins with `stop`, which is not asked for."""
        return await self._go("GET", url, None, stop)

    async def submit(self, page: Shown, stop: str = "", **fields: str) -> Shown:
        """Fill in the form that has such fields, or else the first one, and send it."""
        form = next((each for each in page.forms if each.fields.keys() & fields.keys()), page.forms[0])
        filled = {**form.fields, **fields}
        return await self._go(form.method, urljoin(page.url, form.action), filled, stop)

    async def _go(self, method: str, url: str, form: dict[str, str] | None, stop: str) -> Shown:
        asked: list[str] = []
        for _ in range(MOST_REDIRECTS):
            asked.append(url)
            if stop and url.startswith(stop):
                return Shown(url, 0, "", tuple(asked))
            async with self._session.request(
                method, URL(url, encoded=True), data=form, allow_redirects=False
            ) as answer:
                text = await answer.text()
                if answer.status not in (301, 302, 303):
                    return Shown(url, answer.status, text, tuple(asked))
                url, method, form = urljoin(url, answer.headers["location"]), "GET", None
        raise AssertionError(f"more than {MOST_REDIRECTS} redirects: {asked}")
