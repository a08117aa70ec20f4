"""The emergency stop over two processes on one PostgreSQL, worked from the command line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from enable_with_segment.oauth_app.demo.processes import free_port
from tests.journey.deployment import Deployment, basic

EVENT = {"type": "identify", "userId": "cust_1", "timestamp": "2026-01-01T00:00:00Z"}
NOTICED_AFTER_SECONDS = 1.0


@pytest.fixture
async def shared_store(postgres_socket: str) -> AsyncIterator[str]:
    """The URL of an empty PostgreSQL database."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(host=postgres_socket, user="postgres", database="postgres")
    try:
        await connection.execute(f'CREATE DATABASE "{name}"')
        yield f"postgresql+asyncpg://postgres@/{name}?host={postgres_socket}"
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    finally:
        await connection.close()


async def _statuses(deployment: Deployment, ports: list[int], key: str) -> list[int]:
    """What every process answers to an event."""
    answers = [
        await deployment.http.post(
            f"http://localhost:{port}/subscriptions/acme-crm",
            json={**EVENT, "messageId": uuid4().hex},
            headers={"Authorization": basic(key)},
        )
        for port in ports
    ]
    return [answer.status_code for answer in answers]


async def _calls_of_segment(deployment: Deployment) -> int:
    """How many requests Segment has received."""
    answer = await deployment.http.get(f"{deployment.sandbox}/_sandbox/requests")
    return int(answer.json()["count"])


async def test_tk_16_panic_stops_every_process_within_a_second_until_it_is_lifted(
    deployment: Deployment, shared_store: str
) -> None:
    deployment.environment["DATABASE_URL"] = shared_store
    assert (await deployment.command("migrate")).status == 0
    ports = [deployment.port, free_port(0)]
    processes = [deployment.start("--role", role, port=port) for role, port in zip(("all", "web"), ports, strict=True)]
    for running in processes:
        running.wait_for("enable-with-segment ready on")
    made = await deployment.command("api-keys", "create", "--account", "acct_northwind", "--json")
    key = json.loads(made.output)["api_key"]
    status_url = await deployment.connect(await deployment.link("acct_northwind"))
    install = (await deployment.reaches(status_url, "connected"))["install"]
    assert await _statuses(deployment, ports, key) == [202, 202]

    stopped = await deployment.command("panic", "--reason", "a drill", "--json", without="ENCRYPTION_KEYS")
    assert json.loads(stopped.output) == {"stopped": True, "changed": True}, stopped.errors
    await asyncio.sleep(NOTICED_AFTER_SECONDS)
    assert await _statuses(deployment, ports, key) == [503, 503]
    calls = await _calls_of_segment(deployment)
    assert (await deployment.command("installs", "refresh", install)).status != 0
    assert await _calls_of_segment(deployment) == calls

    assert (await deployment.command("panic", "--lift", "--reason", "over")).status == 0
    await asyncio.sleep(NOTICED_AFTER_SECONDS)
    assert await _statuses(deployment, ports, key) == [202, 202]
    audited = json.loads((await deployment.command("audit", "list", "--action", "panic.engage", "--json")).output)
    assert [(entry["actor"], entry["reason"]) for entry in audited] == [("cli", "a drill")]
