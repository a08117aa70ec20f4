"""The API against its own description: Schemathesis makes the requests, over HTTP, with a good token and without one.

How many requests were tried is printed with ``pytest -s``; ``SCHEMATHESIS_EXAMPLES=1000`` tries more of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from enable_with_segment.oauth_app.web.rate_limits import RateLimits
from tests.listening import listening
from tests.oauth_app.operations import Operations, running_service

EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "5")
# A request may be as described and still name an install that does not exist, which is refused with 400.
UNDESCRIBED = "positive_data_acceptance"


class Counted:
    """The service, with its answers counted."""

    def __init__(self, service: Operations) -> None:
        self.statuses: Counter[str] = Counter()
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.statuses[f"{scope['method']} {message['status']}"] += 1
            await send(message)

        self._service.services.rate_limits._buckets = RateLimits()._buckets  # what is tried here is not how often
        await self._service.app(scope, receive, count)


async def schemathesis(url: str, folder: Path, headers: Mapping[str, str], *options: str) -> dict[str, Any]:
    """Run Schemathesis over the description at an address; returns its report."""
    report = folder / "report.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/api/openapi.json", "--url", url),
        *("--max-examples", EXAMPLES, "--seed", "1", "--exclude-checks", UNDESCRIBED, "--no-color"),
        *("--report", "json", "--report-json-path", str(report)),
        *(part for name, value in headers.items() for part in ("-H", f"{name}: {value}")),
        *options,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    told: dict[str, Any] = json.loads(report.read_bytes())
    return told


@pytest.mark.parametrize("caller", ["with a token", "without a token"])
async def test_every_answer_is_one_that_the_description_names(caller: str, tmp_path: Path) -> None:
    async with running_service(tmp_path) as service:
        await service.install()
        await service.deliver((await service.api_key())[1], "m-1")
        counted = Counted(service)
        known = caller == "with a token"
        async with listening(counted) as port:
            report = await schemathesis(
                f"http://127.0.0.1:{port}",
                tmp_path,
                await service.token() if known else {},
                *(() if known else ("--phases", "coverage,fuzzing")),
            )
    tried = report["test_cases"]["generated"]
    print(f"{caller}: tried {tried} requests: {dict(sorted(counted.statuses.items()))}")  # noqa: T201 - the report
    assert report["complete"]
    assert report["operations"]["tested"] == report["operations"]["total"] > 0
    assert (report["failures"], report["errors"]) == ([], [])
    assert tried > 100
    answered = {int(status.split()[1]) for status in counted.statuses}
    assert max(answered) < 500
    assert ({200, 201, 204, 400, 404} <= answered) == known, "every kind of answer was seen, and strangers saw none"
