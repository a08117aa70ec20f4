"""Calls to the Config API for one install: each with a fresh token, and repeated once after a 401 (contract 2.7)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from enable_with_segment.installs.tokens import InstallTokens
from enable_with_segment.segment_api.catalog import CatalogDestination
from enable_with_segment.segment_api.config_api import ConfigApi
from enable_with_segment.segment_api.destination import Destination, DestinationRequest
from enable_with_segment.segment_api.errors import (
    InvalidAnswer,
    NotFound,
    RateLimited,
    SegmentError,
    SegmentUnavailable,
    Unauthenticated,
)

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class InstallCalls:
    """The Config API as one install sees it. Raises ``SegmentError``; ``AccessLost`` for ``Unauthenticated``."""

    def __init__(self, config_api: ConfigApi, tokens: InstallTokens, install_id: str) -> None:
        self._config_api = config_api
        self._tokens = tokens
        self._install_id = install_id

    async def get(self, name: str) -> Destination | None:
        """Read a destination, ``None`` if there is none."""
        try:
            return await self._with_token(lambda token: self._config_api.get_destination(token, name))
        except NotFound:
            return None

    async def create(self, request: DestinationRequest) -> Destination:
        """Create a destination."""
        return await self._with_token(lambda token: self._config_api.create_destination(token, request))

    async def update(self, request: DestinationRequest) -> Destination:
        """Update a destination."""
        return await self._with_token(lambda token: self._config_api.update_destination(token, request))

    async def switch_off(self, name: str, *, delete: bool) -> None:
        """Disable or delete a destination, and look that it is off; one that is gone already is fine.

        Raises:
            SegmentUnavailable: Segment still shows it switched on, or to be deleted.
        """
        try:
            if delete:
                await self._with_token(lambda token: self._config_api.delete_destination(token, name))
            else:
                await self.update(DestinationRequest(name, enabled=False))
        except NotFound:
            pass  # one answer, which the look confirms
        seen = await self.get(name)
        if seen is not None and (delete or seen.enabled):
            raise SegmentUnavailable("Segment still shows the destination as it was")

    async def catalog(self, slug: str) -> CatalogDestination | None:
        """Read a catalog entry, ``None`` if this install cannot.

        Whether a destination scope reaches the catalog is not known, nor how a refusal looks (Appendix A 8, 22, 24),
        so every failure but the rate limit's counts as one, and a 401 here is not taken for a dead token.
        """
        token = await self._tokens.access_token(self._install_id)
        try:
            return await self._config_api.get_catalog_destination(token, slug)
        except RateLimited:
            raise
        except SegmentError as refused:
            logger.info("the catalog entry %s cannot be read (%s); going on without it", slug, refused)
            return None

    async def _with_token(self, call: Callable[[str], Awaitable[_T]]) -> _T:
        token = await self._tokens.access_token(self._install_id)
        try:
            return await call(token)
        except Unauthenticated:
            pass
        except InvalidAnswer as odd:  # how a replaced token is refused is not documented (contract 2.7)
            if odd.status != 401:
                raise
        token = await self._tokens.access_token(self._install_id, rejected=token)
        try:
            return await call(token)
        except Unauthenticated as refused:
            raise await self._tokens.note_refused(self._install_id, refused) from refused
