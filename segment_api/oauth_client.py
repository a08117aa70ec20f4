"""Authlib's OAuth client, for whoever speaks OAuth: the one place that imports it, and without its announcement."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    # Authlib announces that it will move to httpx2; this project has decided for httpx. Its filter comes first.
    import authlib.deprecate  # noqa: F401  # importing it adds a filter that ours must stand before

    warnings.simplefilter("ignore")
    from authlib.integrations.httpx_client import AsyncOAuth2Client

__all__ = ["AsyncOAuth2Client"]
