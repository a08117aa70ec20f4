"""Refusing unsafe requests that another site sent, from what the browser says of itself (DA-1)."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers


def is_same_site(headers: Headers, *, base_url: str) -> bool:
    """Return True if an unsafe request came from our own pages.

    ``Sec-Fetch-Site`` decides where a browser sends it. Otherwise ``Origin`` must be that of ``BASE_URL``, or name the
    host the request went to; a proxy may have rewritten ``Host``. A request with neither header does not come from a
    browser, so no ambient cookie of a victim can be behind it.

    Args:
        base_url: where browsers reach the service.
    """
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in {"same-origin", "none"}
    origin = headers.get("origin")
    if origin is None:
        return True
    return _origin(origin) == _origin(base_url) or urlsplit(origin).netloc == headers.get("host")


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    """Return scheme, host and port of a URL, in one spelling; ``None`` where it has none (``Origin: null``)."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return parts.scheme, parts.hostname, port or {"http": 80, "https": 443}.get(parts.scheme)


def is_speculative(headers: Headers) -> bool:
    """Return True if a browser only prefetches or prerenders; such a request must change nothing (OA-23)."""
    purpose = headers.get("sec-purpose") or headers.get("purpose") or ""
    return "prefetch" in purpose or "prerender" in purpose
