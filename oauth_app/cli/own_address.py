"""Whether the links that a service makes lead to the port it listens on, and what is said when they don't."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from enable_with_segment.oauth_app.runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class OwnAddress:
    """What to go on with.

    Attributes:
        base_url: to be taken for BASE_URL; ``None`` where it stays as it is.
        told: a sentence for whoever starts the service, if there is something to say.
    """

    base_url: str | None = None
    told: str | None = None


def own_address(settings: Settings, port: int) -> OwnAddress:
    """Take the port that is served into the BASE_URL that nobody set, and doubt one that names another.

    Only on this machine: a public address leads to the service by way of a proxy.
    """
    named = urlsplit(settings.base_url).port or (443 if settings.secure_cookies else 80)
    if not settings.on_loopback or named == port:
        return OwnAddress()
    if "base_url" in settings.model_fields_set:
        return OwnAddress(
            told=f"BASE_URL is {settings.base_url} and this serves port {port}: links lead to the service only if "
            f"something passes port {named} on to it."
        )
    base_url = f"http://localhost:{port}"
    return OwnAddress(
        base_url,
        f"BASE_URL is not set, so links lead to {base_url}. Other commands cannot know that: set BASE_URL={base_url} "
        "for them.",
    )
