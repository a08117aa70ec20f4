"""A second service on the stores of a running one: SQLite serves one process, and the second waits for its turn."""

from __future__ import annotations

from typing import Any

from enable_with_segment.oauth_app.demo.processes import free_port
from tests.journey.deployment import Deployment, until

REASON = "another process writes to this event log"


async def test_a_second_service_is_not_ready_until_the_first_has_gone(deployment: Deployment) -> None:
    port = free_port(0)
    first = deployment.serve()
    assert (await _ready(deployment, deployment.port))["ready"]
    second = deployment.start(port=port)
    second.wait_for(f"ready on http://127.0.0.1:{port}")
    waiting = await _ready(deployment, port)
    assert (waiting["checks"]["event_log"], waiting["reasons"]) == (False, {"event_log": REASON})
    second.wait_for(f"No events can be claimed: {REASON}")

    for command in (("events", "list"), ("dead-letters", "retry", "--all"), ("events", "pause"), ("events", "resume")):
        done = await deployment.command(*command)
        assert done.status == 0, done.errors
    assert "another process" not in (await deployment.command("doctor")).output
    assert (await _ready(deployment, deployment.port))["ready"]

    first.kill()
    await until(lambda: _is_ready(deployment, port), "the second service is ready")
    assert second.printed().count("No events can be claimed") == 1
    second.wait_for("Events can be claimed again")
    assert second.terminate() == 0


async def _ready(deployment: Deployment, port: int) -> dict[str, Any]:
    answer = await deployment.http.get(f"http://localhost:{port}/readyz")
    told: dict[str, Any] = answer.json()
    assert answer.status_code == (200 if told["ready"] else 503)
    return told


async def _is_ready(deployment: Deployment, port: int) -> bool | None:
    return (await _ready(deployment, port))["ready"] or None
