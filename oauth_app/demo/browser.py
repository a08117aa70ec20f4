"""A customer's browser without a screen: follows redirects, keeps cookies, fills in forms, and notes every hop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.demo.forms import Form, read_forms

_MOST_HOPS = 12


@dataclass(frozen=True, slots=True)
class Hop:
    """One request the browser made, and its answer."""

    method: str
    url: str
    status: int


class Browser:
    """Drives pages over HTTP the way a person would with JavaScript switched off."""

    def __init__(self, http: httpx.AsyncClient, on_hop: Callable[[Hop], None] | None = None) -> None:
        self.http = http
        self._on_hop = on_hop
        self.hops: list[Hop] = []

    async def open(self, url: str) -> httpx.Response:
        """Go to an address and follow it to a page."""
        return await self._follow(await self._request("GET", url, {}))

    async def reload(self, url: str) -> httpx.Response:
        """Ask for exactly this address again, without following what comes back."""
        return await self._request("GET", url, {})

    async def submit(
        self, page: httpx.Response, *, button: str | None = None, stop_before: str | None = None, **values: str
    ) -> httpx.Response:
        """Fill in a page's form and follow it.

        Args:
            page: the page with the form.
            button: the value of the button to press, if it has one.
            stop_before: do not go to addresses that begin so; the redirect that leads there is returned.
            values: what to write into the form's fields.

        Raises:
            LookupError: the page has no such form.
        """
        form = _find(read_forms(page.text, str(page.url)), button)
        pressed = {name: value for name, value in form.buttons if value == button}
        headers = {"Origin": f"{page.url.scheme}://{page.url.netloc.decode()}", "Sec-Fetch-Site": "same-origin"}
        answer = await self._request("POST", form.action, headers, form.filled(**pressed, **values))
        return await self._follow(answer, stop_before)

    async def _follow(self, answer: httpx.Response, stop_before: str | None = None) -> httpx.Response:
        for _ in range(_MOST_HOPS):
            if not answer.has_redirect_location:
                return answer
            location = str(answer.url.join(answer.headers["location"]))
            if stop_before is not None and location.startswith(stop_before):
                return answer
            answer = await self._request("GET", location, {})
        raise LookupError(f"more than {_MOST_HOPS} redirects, the last one from {answer.url.path}")

    async def _request(
        self, method: str, url: str, headers: dict[str, str], data: dict[str, str] | None = None
    ) -> httpx.Response:
        answer = await self.http.request(method, url, headers=headers, data=data, follow_redirects=False)
        hop = Hop(method, url, answer.status_code)
        self.hops.append(hop)
        if self._on_hop is not None:
            self._on_hop(hop)
        return answer


def _find(forms: list[Form], button: str | None) -> Form:
    for form in forms:
        if button is None or any(value == button for _, value in form.buttons):
            return form
    raise LookupError("the page has no such form" if button is None else f"the page has no button '{button}'")
