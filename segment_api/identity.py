"""Who we are to Segment: the authorization URL, the code exchange, and the install token's refresh."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enable_with_segment.http_client import httpx
from enable_with_segment.segment_api.answers import config_api_object
from enable_with_segment.segment_api.authorization_code import AuthorizationCodeClient, basic_credentials
from enable_with_segment.segment_api.errors import InvalidAnswer, NotSent, SegmentUnavailable, TokenRequestRejected
from enable_with_segment.segment_api.grants import InstallGrant, RefreshedToken, read_refreshed_token
from enable_with_segment.segment_api.http import BeforeRequest, answer_of, client_options
from enable_with_segment.segment_api.names import install_name as normalised_install_name
from enable_with_segment.segment_api.names import path_of
from enable_with_segment.segment_api.rate_limiter import RateLimiter
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_api.urls import check_base_url


class IdentityClient:
    """One OAuth client of ours at Segment. The client secret goes to the two given origins and nowhere else.

    Args:
        identity_url: base of ``/oauth2/auth`` and ``/oauth2/token``.
        config_api_url: base of the Config API with its version, where refresh lives (contract 2.7).
        redirect_uri: sent byte for byte in both requests; Segment compares it exactly (contract 2.3).
        scope: exactly the registered scope.
        http: a transport to use in place of the network, for tests.
        timeout: seconds for each request as a whole.
        limiter: shared with :class:`~segment_api.config_api.ConfigApi`, since refresh is counted there too.
        before_request: asked before each request whether it may be sent.

    Raises:
        BaseUrlRefused: a base URL that secrets must not be sent to.
    """

    def __init__(
        self,
        *,
        identity_url: str,
        config_api_url: str,
        client_id: str,
        client_secret: Secret,
        redirect_uri: str,
        scope: str,
        http: httpx.AsyncBaseTransport | None = None,
        timeout: float = 10,
        limiter: RateLimiter | None = None,
        before_request: BeforeRequest | None = None,
    ) -> None:
        self._identity_url = check_base_url("SEGMENT_IDENTITY_URL", identity_url)
        self._config_api_url = check_base_url("SEGMENT_CONFIG_API_URL", config_api_url)
        self._client_id = client_id
        self._client_secret = client_secret
        self._timeout = timeout
        self._limiter = limiter or RateLimiter()
        self._oauth = AuthorizationCodeClient(
            client_id=client_id,
            client_secret=client_secret.reveal(),
            redirect_uri=redirect_uri,
            scope=scope,
            **client_options(http, timeout, before_request=before_request),
        )
        self._http = httpx.AsyncClient(**client_options(http, timeout, before_request=before_request))

    def authorization_url(self, *, state: str, code_verifier: str | None) -> str:
        """Return where to send the browser (contract 2.3), with an S256 challenge when a verifier is given."""
        url, _ = self._oauth.create_authorization_url(
            f"{self._identity_url}/oauth2/auth", state=state, code_verifier=code_verifier
        )
        return str(url)

    async def exchange_code(self, code: str, *, code_verifier: str | None) -> InstallGrant:
        """Exchange a code for an install token; repeated once when Segment was unavailable (contract case 31).

        Raises:
            TokenRequestRejected: the code, the client or the redirect URI was refused.
            NotSent: no connection came about, so nothing can have happened.
            InvalidAnswer: an answer that holds no usable grant. Segment may have made the install all the same.
            SegmentUnavailable: no answer, 429 or 5xx. Segment may have made the install all the same.
        """
        try:
            return await self._exchange_once(code, code_verifier)
        except SegmentUnavailable as error:
            if error.status == 429 or isinstance(error, InvalidAnswer):
                raise
            unseen = error
        try:
            return await self._exchange_once(code, code_verifier)
        except NotSent:
            raise unseen from None
        except TokenRequestRejected as rejected:
            # "Used before" and "installed already" may both be the effect of the request whose answer was lost.
            if rejected.error != "invalid_grant" and not rejected.install_already_exists:
                raise
            if isinstance(unseen, NotSent):
                raise
            raise unseen from None

    async def refresh(self, install_name: str, *, may_send: Callable[[], bool] = lambda: True) -> RefreshedToken:
        """Get a new install token; the earlier one stops working at once (contract 2.7). Never repeated here.

        Args:
            may_send: asked right before the request goes out, after any wait for the rate limit.

        Raises:
            NotSent: ``may_send`` said no, or there was no connection.
            ConfigApiError: Segment refused, in its own form; ``NotFound`` for an install that it does not know.
            SegmentUnavailable: an outage. A token may have been issued and lost.
            NameInvalid: not an install's name.
        """
        path = path_of(normalised_install_name(install_name))
        credentials = basic_credentials(self._client_id, self._client_secret.reveal())
        await self._limiter.acquire()
        if not may_send():
            raise NotSent("the refresh was withdrawn before it went out")
        answer = await answer_of(
            self._http.get(f"{self._config_api_url}/{path}/token", headers={"Authorization": credentials}),
            within=self._timeout,
            what="Segment's Config API",
        )
        return read_refreshed_token(config_api_object(answer))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._oauth.aclose()
        await self._http.aclose()

    async def _exchange_once(self, code: str, code_verifier: str | None) -> InstallGrant:
        try:
            async with asyncio.timeout(self._timeout):
                grant: InstallGrant = await self._oauth.fetch_token(
                    f"{self._identity_url}/oauth2/token",
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=code_verifier,
                )
        except TimeoutError:
            raise SegmentUnavailable(f"the token endpoint did not answer within {self._timeout:g} s") from None
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(f"the token endpoint could not be reached ({type(error).__name__})") from None
        except httpx.HTTPError as error:
            raise SegmentUnavailable(f"the token endpoint's answer was lost ({type(error).__name__})") from None
        return grant
