"""Checks over the network: Segment's clock beside ours, and our own address as others see it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from enable_with_segment.db.clock import Clock
from enable_with_segment.http_client import httpx
from enable_with_segment.oauth_app.doctor.finding import Finding, failure, ok, warning
from enable_with_segment.oauth_app.operators.identity_provider import ProviderUnavailable, identity_provider_of
from enable_with_segment.oauth_app.runtime.settings import Settings

_LARGEST_SKEW = timedelta(seconds=60)
_LEAST_CERTIFICATE_LIFE = timedelta(days=14)
_TIMEOUT = 10.0


async def check_clock(settings: Settings, clock: Clock) -> Finding:
    """Our clock agrees with that of Segment's OAuth server: tokens and links expire by it (OP-5)."""
    url = settings.segment_identity_url
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as client:
            before = clock()
            response = await client.head(url)
            after = clock()
        theirs = parsedate_to_datetime(response.headers["date"])
    except (httpx.HTTPError, KeyError, ValueError) as problem:
        return warning(
            "clock",
            f"{url} cannot be asked for the time ({type(problem).__name__}).",
            "Let this machine reach Segment over https, and keep its clock with NTP.",
        )
    return judge_skew(theirs if theirs.tzinfo else theirs.replace(tzinfo=UTC), before, after)


async def check_identity_provider(settings: Settings) -> AsyncIterator[Finding]:
    """The operators' identity provider answers, and its discovery document names the configured issuer."""
    provider = identity_provider_of(settings)
    if provider is None:
        return
    try:
        await provider.check()
    except ProviderUnavailable as problem:
        yield failure(
            "identity-provider",
            f"Nobody can sign in to the dashboard through {settings.oidc_issuer}: {problem}.",
            "Correct OIDC_ISSUER (the address whose /.well-known/openid-configuration names it), or let this machine "
            "reach it.",
        )
    else:
        yield ok("identity-provider", f"{settings.oidc_issuer} answers as OpenID Connect says.")
    finally:
        await provider.aclose()


def judge_skew(theirs: datetime, before: datetime, after: datetime) -> Finding:
    """Judge the time of an answer (full seconds) that came between two instants of ours."""
    skew = (before + (after - before) / 2) - (theirs + timedelta(seconds=0.5))
    seconds = abs(skew).total_seconds()
    if abs(skew) <= _LARGEST_SKEW:
        return ok("clock", f"The clock is within {max(1, round(seconds))} s of Segment's.")
    side = "ahead of" if skew > timedelta() else "behind"
    return failure("clock", f"The clock is {seconds:.0f} s {side} Segment's.", "Synchronise the clock with NTP.")


async def check_public_address(
    settings: Settings, clock: Clock, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Finding]:
    """``BASE_URL`` leads to this service, with a certificate that is valid for some time, and does not redirect."""
    parts = urlsplit(settings.base_url)
    context = tls or ssl.create_default_context()
    if parts.scheme == "https":
        yield await _check_certificate(parts.hostname or "", parts.port or 443, context, clock)
    url = f"{settings.base_url}/healthz"
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False, verify=context) as client:
            response = await client.get(url)
    except httpx.HTTPError as problem:
        yield failure(
            "public-address",
            f"{url} cannot be reached ({type(problem).__name__}).",
            "Start the service; check DNS, the firewall and the proxy.",
        )
        return
    if response.is_redirect:
        yield failure(
            "public-address", f"{url} redirects.", "Set BASE_URL to where it leads: Segment follows no redirect."
        )
    elif response.status_code == 200 and response.text.strip() == "ok":
        yield ok("public-address", f"{url} answers.")
    else:
        yield failure(
            "public-address",
            f"{url} answers {response.status_code}, but not as this service does.",
            "Let the proxy pass every path of BASE_URL on to the service.",
        )


async def _check_certificate(host: str, port: int, context: ssl.SSLContext, clock: Clock) -> Finding:
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except ssl.SSLCertVerificationError as problem:
        return failure(
            "tls", f"The certificate of {host} is refused: {problem.verify_message}.", "Renew or correct it."
        )
    except (OSError, TimeoutError) as problem:
        return failure("tls", f"No TLS connection to {host}:{port} ({type(problem).__name__}).", "Check the proxy.")
    try:
        certificate = writer.get_extra_info("peercert") or {}
    finally:
        writer.close()
        await writer.wait_closed()
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    return judge_certificate(host, ends - clock())


def judge_certificate(host: str, left: timedelta) -> Finding:
    """Judge the time that a valid certificate has left."""
    if left >= _LEAST_CERTIFICATE_LIFE:
        return ok("tls", f"The certificate of {host} is valid for {left.days} more days.")
    return warning("tls", f"The certificate of {host} ends in {left.days} days.", "See that it is renewed in time.")
