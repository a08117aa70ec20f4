"""What the operations do: read a request, ask a service, answer JSON."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from enable_with_segment.db.control import installs
from enable_with_segment.db.control.tables import Install
from enable_with_segment.db.identifiers import AccountInvalid, check_account
from enable_with_segment.installs.chosen_settings import ChosenSettingRefused
from enable_with_segment.installs.connect_links import ReconnectRefused
from enable_with_segment.installs.return_to import ReturnAddressRefused
from enable_with_segment.oauth_app.operators.api_tokens import Caller
from enable_with_segment.oauth_app.runtime.component import signed_url
from enable_with_segment.oauth_app.web.api.problem import NO_STORE, ApiProblem
from enable_with_segment.oauth_app.web.api.requests import bounded_body
from enable_with_segment.oauth_app.web.api.shapes import (
    ApiKeyAnswer,
    ApiKeyRequest,
    ConnectLinkAnswer,
    ConnectLinkRequest,
    EventReceipt,
    InstallAnswer,
    InstallsAnswer,
    ReceiptAnswer,
    Shape,
)
from enable_with_segment.oauth_app.web.services import Services

_INSTALL_ID = re.compile(r"ins_[a-z0-9]{20}")
_KEY_ID = re.compile(r"key_[a-z0-9]{20}")
_LARGEST_PAGE = 500


async def create_connect_link(services: Services, caller: Caller, request: Request) -> Response:
    """Make a connect link."""
    if services.flow is None:
        raise ApiProblem(409, "no_segment_app", "No Segment App is configured, so there is nothing to connect with.")
    await _refuse_when_stopped(services)
    asked = await bounded_body(request, ConnectLinkRequest)
    try:
        link = await services.connect_links.create(
            asked.account,
            return_to=asked.return_to,
            settings=asked.settings,
            reconnects=asked.reconnects,
            actor=caller.actor,
        )
    except ReturnAddressRefused as problem:
        raise ApiProblem(400, "return_to_refused", f"return_to: {problem}.") from None
    except ChosenSettingRefused as problem:
        raise ApiProblem(400, "setting_refused", f"settings: {problem}.") from None
    except ReconnectRefused:
        raise ApiProblem(400, "reconnect_refused", "reconnects: the account has no such install.") from None
    return _json(ConnectLinkAnswer(url=link.url, account=link.account, expires_at=link.expires_at), 201)


async def list_installs(services: Services, _caller: Caller, request: Request) -> Response:
    """List installs, a page at a time."""
    limit = _limit(request.query_params.get("limit"))
    account = request.query_params.get("account")
    if account is not None:
        try:
            check_account(account)
        except AccountInvalid as problem:
            raise ApiProblem(400, "account_invalid", f"account: {problem}.") from None
    before: Install | None = None
    if "before" in request.query_params:
        before = await _install(services, request.query_params["before"])
        if before is None:
            raise ApiProblem(400, "before_unknown", "before: there is no such install.")
    async with services.database.transaction() as session:
        found = await installs.page(session, account=account, before=before, limit=limit + 1)
    more = len(found) > limit
    page = found[:limit]
    return _json(InstallsAnswer(installs=[InstallAnswer.of(i) for i in page], next=page[-1].id if more else None))


async def show_install(services: Services, _caller: Caller, request: Request) -> Response:
    """Show one install."""
    install = await _install(services, request.path_params["install_id"])
    if install is None:
        raise ApiProblem(404, "not_found", "There is no such install.")
    return _json(InstallAnswer.of(install))


async def show_event(services: Services, _caller: Caller, request: Request) -> Response:
    """Show what became of an event."""
    message_id: str = request.path_params["message_id"]
    found = await services.event_log.show(message_id) if message_id.isprintable() else []
    if not found:
        raise ApiProblem(404, "not_found", "No event with this messageId was received.")
    return _json(ReceiptAnswer(message_id=message_id, events=[EventReceipt.of(detail) for detail in found]))


async def create_api_key(services: Services, caller: Caller, request: Request) -> Response:
    """Make an API key to paste by hand."""
    await _refuse_when_stopped(services)
    asked = await bounded_body(request, ApiKeyRequest)
    async with services.database.transaction() as session:
        minted = await services.api_keys.mint(
            session, account=asked.account, component=services.component, signed=asked.signed, actor=caller.actor
        )
    signed = minted.signing_secret is not None
    answer = ApiKeyAnswer(
        id=minted.id,
        api_key=minted.api_key,
        account=asked.account,
        component=services.component,
        url=signed_url(services.settings, services.component, minted.api_key) if signed else None,
        signing_secret=minted.signing_secret,
    )
    return _json(answer, 201)


async def revoke_api_key(services: Services, caller: Caller, request: Request) -> Response:
    """Revoke an API key."""
    key_id: str = request.path_params["key_id"]
    revoked = False
    if _KEY_ID.fullmatch(key_id):
        async with services.database.transaction() as session:
            revoked = await services.api_keys.revoke(session, key_id, actor=caller.actor)
    if not revoked:
        raise ApiProblem(404, "not_found", "There is no usable key with this id.")
    return Response(status_code=204, headers=NO_STORE)


async def _refuse_when_stopped(services: Services) -> None:
    if await services.panic.engaged():
        raise ApiProblem(503, "stopped", "The operator has stopped the service.", headers={"Retry-After": "60"})


async def _install(services: Services, install_id: str) -> Install | None:
    if _INSTALL_ID.fullmatch(install_id) is None:
        return None
    async with services.database.transaction() as session:
        return await installs.get(session, install_id)


def _limit(text: str | None) -> int:
    if text is None:
        return 100
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _LARGEST_PAGE:
        raise ApiProblem(400, "limit_invalid", f"limit: a whole number from 1 to {_LARGEST_PAGE}.")
    return int(text)


def _json(answer: Shape, status: int = 200) -> JSONResponse:
    return JSONResponse(answer.model_dump(mode="json"), status_code=status, headers=NO_STORE)
