"""Which base URLs we send secrets to: HTTPS ones, and plain HTTP only on this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit


class BaseUrlRefused(ValueError):
    """The URL cannot be a base for calls that carry secrets; the text says why."""


def check_base_url(name: str, url: str) -> str:
    """Return ``url`` without a trailing slash.

    Args:
        name: what the URL is for, as the reader of the message knows it, such as ``SEGMENT_IDENTITY_URL``.

    Raises:
        BaseUrlRefused: no absolute http(s) URL, with a user, query or fragment, or ``http://`` to another machine.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise BaseUrlRefused(f"{name} is not a URL") from None
    if any(character.isspace() or not character.isprintable() for character in url):
        raise BaseUrlRefused(f"{name} holds a space or an unprintable character")
    if parts.scheme not in {"http", "https"} or not host:
        raise BaseUrlRefused(f"{name} must start with https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise BaseUrlRefused(f"{name} must not hold a user name or password")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise BaseUrlRefused(f"{name} must not have a query or a fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise BaseUrlRefused(f"{name} must use https://; http:// is for this machine only (localhost, 127.0.0.1)")
    return url.rstrip("/")


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address can only mean this machine (RFC 6761 section 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
