"""``events erase`` as a process of its own, beside a service that writes to the SQLite log."""

from __future__ import annotations

import json

from tests.journey.deployment import Deployment


async def test_an_erasure_beside_a_running_service_is_silent_and_complete(deployment: Deployment) -> None:
    service = deployment.serve()
    ready = await deployment.http.get(f"{deployment.url}/readyz")
    assert ready.status_code == 200  # so it has become the one that writes
    done = await deployment.command("events", "erase", "--account", "acct_1", "--user-id", "cust_1", "--json")
    assert (done.status, done.errors) == (0, "")
    assert json.loads(done.output)["complete"]
    assert service.terminate() == 0
