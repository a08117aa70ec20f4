"""``serve --port``: links lead to the port that is served, or it is said that they may not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.cli.serve import OwnAddress, own_address
from enable_with_segment.oauth_app.demo.processes import free_port
from enable_with_segment.oauth_app.runtime.settings import Settings
from tests.journey.processes import Running


def of(port: int, **given: Any) -> OwnAddress:
    return own_address(Settings(_env_file=None, **given), port)  # type: ignore[call-arg]


def test_a_base_url_that_nobody_set_names_the_port() -> None:
    assert of(8888) == OwnAddress()
    taken = of(9000)
    assert taken.base_url == "http://localhost:9000"
    assert "set BASE_URL=http://localhost:9000" in (taken.told or "")


@pytest.mark.parametrize(
    ("base_url", "named"),
    [("http://localhost:8888", 8888), ("http://127.0.0.1:7000", 7000), ("http://localhost", 80)],
)
def test_a_base_url_of_this_machine_with_another_port_is_doubted(base_url: str, named: int) -> None:
    doubted = of(9000, base_url=base_url)
    assert doubted.base_url is None
    assert f"passes port {named} on to it" in (doubted.told or "")
    assert of(named, base_url=base_url) == OwnAddress()


def test_a_public_address_leads_by_way_of_a_proxy() -> None:
    assert of(9000, base_url="https://segment.acme.example") == OwnAddress()


@pytest.mark.parametrize("empty", [False, True], ids=["not set", "set to nothing"])
def test_the_link_to_the_dashboard_leads_to_the_port_that_is_served(tmp_path: Path, empty: bool) -> None:
    port = free_port(0)
    environment = {
        "HANDLERS": "examples.acme_crm.handlers:crm",
        "ENCRYPTION_KEYS": generate_encryption_key(),
        **({"BASE_URL": ""} if empty else {}),
    }
    service = Running(["serve", "--port", str(port)], environment, tmp_path / "log", tmp_path, fresh=True)
    try:
        service.wait_for("enable-with-segment ready")
        links = re.findall(r"http://\S+?:(\d+)", service.printed())
    finally:
        service.clean_up()
    assert set(links) == {str(port)}
    assert f"http://localhost:{port}/dashboard" in service.printed()
