"""What other sites can do with our pages: frame none of them, hear nothing from them, need nothing of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from starlette.routing import Route

from enable_with_segment.oauth_app.operators.roles import Operator, Role
from tests.oauth_app.operations import SERVICE, Operations, running_service

SCRIPTS = (Path(__file__).parents[3] / "oauth_app").rglob("*.js")
TEMPLATES = (Path(__file__).parents[3] / "oauth_app").rglob("*.html")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Operations]:
    async with running_service(tmp_path) as running:
        yield running


async def test_em_04_every_page_refuses_to_be_framed(service: Operations) -> None:
    install = await service.install()
    words = {
        "link": (await service.services.connect_links.create("acct_1")).url.rpartition("/")[2],
        "install_id": install.id,
        "token": "x",
    }
    token = await service.services.operators.sessions.begin(Operator("ana", Role.OPERATOR), by="test")
    status_link = service.services.status_links.make(install.id, now=service.services.clock())
    addresses = {f"/status/{status_link}"}
    for route in service.app.routes:
        if isinstance(route, Route) and "GET" in (route.methods or set()):
            addresses.add(re.sub(r"\{(\w+)(?::path)?\}", lambda name: words.get(name[1], "x"), route.path))
    pages = 0
    for address in sorted(addresses):
        answer = await service.http.get(f"{SERVICE}{address}", headers={"Cookie": f"operator={token}"})
        if "text/html" not in answer.headers.get("content-type", ""):
            continue
        pages += 1
        assert answer.headers["x-frame-options"] == "DENY", address
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"], address
        assert not [name for name in answer.headers if name.startswith("access-control-")], address
    assert pages >= 12


def test_em_05_no_window_sends_messages_to_another() -> None:
    """There is nothing to forge: what became of a connection is asked of the server."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in (*SCRIPTS, *TEMPLATES)}
    assert "button.js" in texts
    for name, text in texts.items():
        assert not re.search(r"postMessage|BroadcastChannel|window\.opener|localStorage", text), name
        assert name.endswith(".js") or "<script" not in text, name
