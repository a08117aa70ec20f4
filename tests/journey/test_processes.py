"""The service and the sandbox as separate processes: the whole journey, sudden ends, and starts that are refused."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import asyncpg
import pytest

from enable_with_segment.db.encryption import generate_encryption_key
from enable_with_segment.oauth_app.demo.processes import free_port
from enable_with_segment.oauth_app.runtime.stores import open_stores
from tests.journey.deployment import DESTINATION, SOURCE, Deployment, until

SLOW_HANDLERS = '''
"""A partner whose handler for tracks is slow: it waits until the file "gate" is there."""

import asyncio
from pathlib import Path

from enable_with_segment import Subscription

crm = Subscription("acme-crm")


@crm.on("track")
async def wait_for_the_gate(event):
    with Path("called").open("a") as called:
        called.write(f"{event.message_id}\\n")
    while not Path("gate").exists():
        await asyncio.sleep(0.05)


@crm.on("delete")
async def forget(event): ...
'''


async def test_journey_over_http_only(deployment: Deployment) -> None:
    """Service, sandbox and command line are three processes that share nothing but HTTP and the service's stores.

    They start as a user starts them, each in an interpreter of its own.
    """
    deployment.fresh = True
    service = deployment.serve()
    made = await deployment.command("connect-link", "--account", "acct_northwind", "--json")
    assert made.status == 0, made.errors
    status_url = await deployment.connect(json.loads(made.output)["url"])
    told = await deployment.reaches(status_url, "connected")
    assert (told["account"], told["source"]) == ("acct_northwind", SOURCE)

    (destination,) = (await deployment.destinations()).values()
    assert (destination["name"], destination["enabled"]) == (DESTINATION, True)
    await deployment.send("identify", userId="cust_1", messageId="m-1", traits={"email": "kim@mail.example"})
    assert await deployment.delivered("m-1") == [202]
    await deployment.reaches(status_url, "receiving")
    await deployment.handled("m-1")

    assert service.terminate() == 0
    assert "Traceback" not in service.printed()


async def test_killed_service_goes_on_where_each_customer_stood(deployment: Deployment, tmp_path: Path) -> None:
    """SIGKILL meets one install before Segment was asked anything, one whose destination was just created, and one
    whose event was answered 202 and is still with its handler."""
    (tmp_path / "slow_partner.py").write_text(SLOW_HANDLERS, encoding="utf-8")
    deployment.environment["HANDLERS"] = "slow_partner:crm"
    created = await add_customer(deployment, "contoso")
    asked = await add_customer(deployment, "fabrikam")
    service = deployment.serve()

    receiving = await deployment.connect(await deployment.link("acct_northwind"))
    await deployment.reaches(receiving, "connected")
    await deployment.send("track", event="Order Completed", userId="u", messageId="before-the-end")
    assert await deployment.delivered("before-the-end") == [202]
    called = tmp_path / "called"
    await until(lambda: names(called, "before-the-end"), "the handler was called")

    unanswered = {"delay_seconds": 20, "status": 503}
    await deployment.control("faults", route=f"POST /v1beta/{created}/.*", fault={**unanswered, "after": True})
    await deployment.control("faults", route=f"GET /v1beta/{asked}/.*", fault=unanswered)
    halfway = {
        source: await deployment.connect(
            await deployment.link(f"acct_{owner}"), owner=f"owner@{owner}.test", workspace=workspace, source=source
        )
        for owner, source in (("contoso", created), ("fabrikam", asked))
        for workspace in [source.partition("/sources/")[0]]
    }
    await until(lambda: both_on_their_way(deployment, created, asked), "Segment has both requests")
    for status_url in halfway.values():
        assert (await deployment.status(status_url))["status"] == "provisioning"
    service.kill()

    assert set(await deployment.destinations()) == {DESTINATION, f"{created}/destinations/acme-crm"}
    (tmp_path / "gate").touch()
    service = deployment.serve()
    for source, status_url in halfway.items():
        await deployment.reaches(status_url, "connected")
        await deployment.send("track", source, event="Signed Up", userId="u", messageId=f"after {source}")
        assert await deployment.delivered(f"after {source}") == [202]
        await deployment.reaches(status_url, "receiving")
    assert len(await deployment.destinations()) == 3
    await deployment.handled("before-the-end", *(f"after {source}" for source in halfway))
    assert lines(called).count("before-the-end") > 1, "the handler was called once more"
    assert service.terminate() == 0


async def test_serve_refuses_missing_and_wrong_encryption_keys(deployment: Deployment) -> None:
    async with open_stores(deployment.settings()):
        pass  # now there is a store, written with the right keys
    wrong = generate_encryption_key()
    missing, refused = await asyncio.gather(
        deployment.command("serve", "--port", str(deployment.port), without="ENCRYPTION_KEYS"),
        deployment.command("serve", "--port", str(deployment.port), ENCRYPTION_KEYS=wrong),
    )
    assert missing.status == 2
    assert "ENCRYPTION_KEYS is not set" in missing.errors
    assert "enable-with-segment encryption-keys generate" in missing.errors
    assert refused.status == 2
    assert "ENCRYPTION_KEYS does not open what is stored" in refused.errors
    for value in (wrong, deployment.environment["ENCRYPTION_KEYS"]):
        assert value.partition(":")[2] not in refused.output + refused.errors
    assert "Traceback" not in missing.errors + refused.errors


async def test_serve_on_postgresql(deployment: Deployment, postgres_socket: str) -> None:
    """Refused until it is migrated; then with several processes, and with web and worker apart."""
    connection = await asyncpg.connect(host=postgres_socket, user="postgres", database="postgres")
    try:
        await connection.execute("CREATE DATABASE journey")
        deployment.environment["DATABASE_URL"] = f"postgresql+asyncpg://postgres@/journey?host={postgres_socket}"
        await refused_then_migrated(deployment)
        status_url = await served_by_two_processes(deployment)
        await served_by_web_and_worker(deployment, status_url)
    finally:
        for running in deployment.started:
            running.clean_up()
        await connection.execute("DROP DATABASE journey WITH (FORCE)")
        await connection.close()


async def refused_then_migrated(deployment: Deployment) -> None:
    refused = await deployment.command("serve", "--port", str(deployment.port))
    assert refused.status == 2
    assert "not at the newest schema; run: enable-with-segment migrate" in refused.errors
    migrated = await deployment.command("migrate")
    assert (migrated.status, migrated.output) == (0, "Both stores are at the newest schema.\n")


async def served_by_two_processes(deployment: Deployment) -> str:
    service = deployment.serve("--workers", "2")
    status_url = await deployment.connect(await deployment.link("acct_northwind"))
    await deployment.reaches(status_url, "connected")
    await deployment.send("identify", userId="cust_1", messageId="m-1", traits={"email": "kim@mail.example"})
    assert await deployment.delivered("m-1") == [202]
    await deployment.handled("m-1")
    await deployment.reaches(status_url, "receiving")
    assert service.terminate() == 0
    return status_url


async def served_by_web_and_worker(deployment: Deployment, status_url: str) -> None:
    web = deployment.serve("--role", "web")
    await deployment.send("identify", userId="cust_2", messageId="m-2", traits={"email": "lee@mail.example"})
    assert await deployment.delivered("m-2") == [202]
    assert (await deployment.status(status_url))["status"] == "receiving"
    async with open_stores(deployment.settings()) as stores:
        assert (await stores.event_log.prove(["m-2"])).unhandled == ("m-2",), "the web role handles nothing"

    web.kill()
    health_port = free_port(0)
    worker = deployment.start("--role", "worker", port=health_port)
    worker.wait_for("(role worker)")
    await deployment.handled("m-2")
    assert (await deployment.http.get(f"http://localhost:{health_port}/readyz")).status_code == 200
    assert (await deployment.http.get(f"http://localhost:{health_port}/auth/segment")).status_code == 404
    assert worker.terminate() == 0


@pytest.mark.parametrize("option", [("--workers", "2"), ("--role", "web")], ids=["workers", "role"])
async def test_sqlite_is_for_one_process(deployment: Deployment, option: tuple[str, str]) -> None:
    refused = await deployment.command("serve", *option)
    assert (refused.status, refused.output) == (2, "")
    assert "need PostgreSQL: set DATABASE_URL" in refused.errors


async def test_refresh_of_an_unknown_install_says_so(deployment: Deployment) -> None:
    refused = await deployment.command("installs", "refresh", "ins_unknown")
    assert (refused.status, refused.output, refused.errors) == (1, "", "error: there is no install ins_unknown\n")


async def add_customer(deployment: Deployment, name: str) -> str:
    """Another workspace with an owner and a source; returns the source's name."""
    await deployment.control("users", email=f"owner@{name}.test")
    workspace = await deployment.control("workspaces", slug=name, owners=[f"owner@{name}.test"])
    source = await deployment.control("sources", workspace=workspace["name"], slug="web")
    return str(source["name"])


async def both_on_their_way(deployment: Deployment, created: str, asked: str) -> bool | None:
    """Whether the sandbox created one destination and was asked for the other."""
    answer = await deployment.http.get(f"{deployment.sandbox}/_sandbox/requests")
    paths = [record["path"] for record in answer.json()["requests"]]
    is_created = f"{created}/destinations/acme-crm" in await deployment.destinations()
    return True if is_created and any(path.startswith(f"/v1beta/{asked}/") for path in paths) else None


async def names(path: Path, message_id: str) -> bool | None:
    """Whether a handler has written down a messageId."""
    return True if message_id in lines(path) else None


def lines(path: Path) -> list[str]:
    """The lines of a file, if it is there."""
    return path.read_text().splitlines() if path.exists() else []
