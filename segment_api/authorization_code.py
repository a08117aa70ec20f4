"""Authlib's OAuth client, fitted to Segment's token endpoint (contract 2.5)."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.grants import InstallGrant, read_install_grant
from enable_with_segment.segment_api.http import to_answer
from enable_with_segment.segment_api.oauth_client import AsyncOAuth2Client

_BASIC = "client_secret_basic_percent_encoded"


class AuthorizationCodeClient(AsyncOAuth2Client):  # type: ignore[misc]  # Authlib ships no types
    """Builds the authorization URL and exchanges the code.

    Two things differ from Authlib: the pair in the Basic header is percent-encoded first, as RFC 6749
    section 2.3.1 asks, and the answer is read once, strictly, and not remembered on this client, which serves
    every customer.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(token_endpoint_auth_method=_BASIC, code_challenge_method="S256", **options)
        self.register_client_auth_method((_BASIC, _percent_encoded_basic))

    def parse_response_token(self, response: httpx.Response) -> InstallGrant:
        """Read the answer to a code exchange; raises what ``read_install_grant`` raises."""
        return read_install_grant(to_answer(response), requested_scope=str(self.scope))


def basic_credentials(user: str, password: str) -> str:
    """Return the value of a Basic ``Authorization`` header for exactly these two texts."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _percent_encoded_basic(
    client: Any, _method: str, uri: str, headers: dict[str, str], body: str
) -> tuple[str, dict[str, str], str]:
    """Add the client's credentials; the unreserved ``-._~`` stay as they are (contract 2.5)."""
    user, password = quote(client.client_id, safe=""), quote(client.client_secret, safe="")
    headers["Authorization"] = basic_credentials(user, password)
    return uri, headers, body
