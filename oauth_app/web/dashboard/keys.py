"""API keys and API tokens in the dashboard: what there is, never what they are, and revoking them."""

from __future__ import annotations

import re

from starlette.responses import Response

from enable_with_segment.db.control import api_keys as stored_keys
from enable_with_segment.oauth_app.operators.actions import Act
from enable_with_segment.oauth_app.web.dashboard.access import Visit

_SHOWN = 200
_KEY_ID = re.compile(r"key_[a-z0-9]{20}")
_TOKEN_ID = re.compile(r"tok_[a-z0-9]{20}")
_GONE = (404, "It can’t be revoked", "There is no usable one with this id.")


async def list_keys(visit: Visit) -> Response:
    """The newest keys and every token, by id and last four characters."""
    account = visit.request.query_params.get("account", "").strip()[:200]
    wanted = account if account.isprintable() else "\N{REPLACEMENT CHARACTER}"
    async with visit.services.database.transaction() as session:
        keys = await stored_keys.list_all(session, account=wanted or None, limit=_SHOWN)
    tokens = await visit.services.api_tokens.list_all()
    return visit.page("keys.html", keys=keys, tokens=tokens, account=account, most=_SHOWN)


async def revoke_key(visit: Visit) -> Response:
    """Revoke an API key at once."""
    key_id = visit.request.path_params["key_id"]
    if not _KEY_ID.fullmatch(key_id):
        return visit.message(*_GONE)
    await visit.note(Act.REVOKE_API_KEY, key_id)
    async with visit.services.database.transaction() as session:
        revoked = await visit.services.api_keys.revoke(session, key_id, actor=visit.operator.actor)
    return visit.go_to("/dashboard/keys") if revoked else visit.message(*_GONE)


async def revoke_token(visit: Visit) -> Response:
    """Revoke an API token at once."""
    token_id = visit.request.path_params["token_id"]
    if not _TOKEN_ID.fullmatch(token_id):
        return visit.message(*_GONE)
    await visit.note(Act.REVOKE_API_TOKEN, token_id)
    revoked = await visit.services.api_tokens.revoke(token_id, actor=visit.operator.actor, reason=visit.reason)
    return visit.go_to("/dashboard/keys") if revoked else visit.message(*_GONE)
