"""The refresh as HTTP: contract cases 34 to 41 as far as they are about the wire."""

from __future__ import annotations

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from enable_with_segment.segment_api.errors import NotFound, RateLimited, SegmentUnavailable, Unauthenticated
from enable_with_segment.segment_api.names import NameInvalid
from enable_with_segment.segment_sandbox import Sandbox, SandboxConfig
from tests.segment_api.wire import CLIENT_ID, CLIENT_SECRET, Wire, answering, identity_client, install


async def test_case_034_refresh_is_a_get_on_the_config_api_with_the_raw_pair() -> None:
    sandbox = Sandbox()
    wire = Wire(sandbox.app)
    identity = identity_client(wire)
    grant = await install(sandbox, identity)
    await identity.refresh(grant.install_name)
    sent = wire.sent[-1]
    assert sent.route == f"GET /v1beta/{grant.install_name}/token"
    assert (sent.basic, sent.body) == (f"{CLIENT_ID}:{CLIENT_SECRET}", b"")


@pytest.mark.parametrize(
    ("switch", "length"), [({"refreshed_as": "uuid"}, 36), ({"refreshed_as": "long_opaque"}, 1000)]
)
async def test_case_035_a_refreshed_token_may_have_any_form(switch: dict[str, object], length: int) -> None:
    sandbox = Sandbox(SandboxConfig(switches=switch))
    identity = identity_client(Wire(sandbox.app))
    grant = await install(sandbox, identity)
    assert len((await identity.refresh(grant.install_name)).access_token) == length


@pytest.mark.parametrize("form", ["as_issued", "singular_install", "missing_optional_fields"])
async def test_the_names_in_a_refresh_do_not_matter(form: str) -> None:
    sandbox = Sandbox(SandboxConfig(switches={"refresh_names": form}))
    identity = identity_client(Wire(sandbox.app))
    grant = await install(sandbox, identity)
    refreshed = await identity.refresh(grant.install_name)
    assert refreshed.access_token
    assert refreshed.expires_in == 3600


async def test_case_040_refresh_tells_a_removed_install_from_a_wrong_secret() -> None:
    sandbox = Sandbox()
    with pytest.raises(NotFound):
        await identity_client(Wire(sandbox.app)).refresh("installs/1")
    with pytest.raises(Unauthenticated):
        await identity_client(Wire(sandbox.app), client_secret="wrong").refresh("installs/1")


@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (JSONResponse({"error": "too many", "code": 8}, 429, {"Retry-After": "30"}), RateLimited),
        (PlainTextResponse("upstream connect error", 503, {"Retry-After": "30"}), SegmentUnavailable),
    ],
)
async def test_case_041_refresh_passes_on_how_long_to_wait_and_never_repeats(
    response: Response, kind: type[SegmentUnavailable]
) -> None:
    wire = Wire(answering(response))
    with pytest.raises(kind) as caught:
        await identity_client(wire).refresh("installs/9077")
    assert caught.value.retry_after == 30
    assert len(wire.sent) == 1


@pytest.mark.parametrize("name", ["", "installs/", "installs/1/../2", "installs/1?x=", "workspaces/1", "installs/a b"])
async def test_refresh_builds_no_url_from_a_name_that_is_none(name: str) -> None:
    wire = Wire(answering(JSONResponse({})))
    with pytest.raises(NameInvalid):
        await identity_client(wire).refresh(name)
    assert wire.sent == []
