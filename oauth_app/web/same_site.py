"""Refusing unsafe requests that another site sent, from what the browser says of itself (DA-1)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers


def is_same_site(headers: Headers) -> bool:
    """Tell whether an unsafe request came from our own pages.

    ``Sec-Fetch-Site`` decides where it is sent; otherwise ``Origin`` must name the host the request went to. A
    request with neither does not come from a browser, so no ambient cookie of a victim can be behind it.
    """
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in {"same-origin", "none"}
    origin = headers.get("origin")
    if origin is None:
        return True
    return urlsplit(origin).netloc == headers.get("host")


def is_speculative(headers: Headers) -> bool:
    """Tell whether a browser only prefetches or prerenders; such a request must change nothing (OA-23)."""
    purpose = headers.get("sec-purpose") or headers.get("purpose") or ""
    return "prefetch" in purpose or "prerender" in purpose
