"""Whatever a browser, a backend or a stranger sends: an answer below 500 that gives nothing away, on both engines.

How many requests were tried is printed with ``pytest -rP``; ``FUZZ_EXAMPLES=5000`` tries more of them.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enable_with_segment.db.control import installs
from enable_with_segment.db.database import Database
from enable_with_segment.db.migrate import migrate
from enable_with_segment.oauth_app.flow.cookies import cookie_name
from enable_with_segment.oauth_app.operators.roles import Operator, Role
from enable_with_segment.oauth_app.web.api.operations import OPERATIONS, Operation
from enable_with_segment.oauth_app.web.api.problem import ApiProblem
from enable_with_segment.oauth_app.web.api.shapes import Problem
from enable_with_segment.oauth_app.web.dashboard.routes import ACTS, PAGES
from enable_with_segment.oauth_app.web.rate_limits import RateLimits
from enable_with_segment.segment_sandbox.config import DEFAULT_CLIENT_SECRET
from tests.leaks import KnownSecrets
from tests.oauth_app.operations import Operations, running_service

EXAMPLES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
TRIED: Counter[str] = Counter()
ALWAYS = {401, 403, 429}

texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["", "\x00", "../..", "'; DROP TABLE audit; --", "a/b", "%", "%00", "ins_" + "0" * 20, "key_" + "0" * 20, "9" * 400]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
fields = st.sampled_from(["account", "return_to", "settings", "limit", "before", "state", "type", "message_id", "link"])
queries = st.lists(st.tuples(fields | texts, texts), max_size=4)
bodies = st.one_of(
    st.dictionaries(fields | texts, values, max_size=4).map(lambda value: json.dumps(value).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=80),
    st.builds(lambda account: json.dumps({"account": account}).encode(), texts),
    st.integers(1, 3_000).map(lambda depth: b'{"account":"a","settings":' + b'{"a":' * depth),
)
kinds = st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", ""])


class Stranger:
    """Sends raw requests, as a server hands them on, and reads every answer for secrets."""

    def __init__(self, service: Operations, caplog: pytest.LogCaptureFixture) -> None:
        self.service = service
        self.secrets = KnownSecrets()
        self._caplog = caplog

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> tuple[int, bytes]:
        """Send one request; returns the status and the body."""
        raw = "&".join(f"{quote(name)}={quote(value)}" for name, value in query).encode()
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": raw,
            "headers": [(b"host", b"localhost:8888"), *((n.encode(), v.encode("utf-8")) for n, v in headers)],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8888),
        }
        waiting: Iterator[dict[str, Any]] = iter(
            [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
        )
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return next(waiting)

        async def send(message: Any) -> None:
            sent.append(message)

        self.service.services.rate_limits._buckets = RateLimits()._buckets  # what is tried here is not how often
        await self.service.app(scope, receive, send)
        status: int = sent[0]["status"]
        answered = b"".join(part.get("body", b"") for part in sent[1:])
        TRIED[f"{method} {status}"] += 1
        shown = {"answer": answered, "headers": repr(sent[0]["headers"]).encode()}
        logged = "\n".join(record.getMessage() for record in self._caplog.records).encode()
        self._caplog.clear()
        assert status < 500, (status, answered)
        assert status not in {307, 308}, "a body could follow (OA-16)"
        assert self.secrets.leaks({**shown, "log": logged}) == []
        return status, answered


@pytest.fixture
async def stranger(database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> AsyncIterator[Stranger]:
    caplog.set_level(logging.DEBUG, logger="enable_with_segment.oauth_app")
    caplog.set_level(logging.DEBUG, logger="enable_with_segment.subscriptions")
    if database_url.startswith("postgresql"):
        database = Database.open(database_url)
        await migrate(database, "control")
        await migrate(database, "event_log")
        await database.close()
    async with running_service(tmp_path, database_url=database_url) as service:
        made = Stranger(service, caplog)
        made.secrets.add("client secret", DEFAULT_CLIENT_SECRET)
        keys = service.settings.encryption_keys
        assert keys is not None
        made.secrets.add("encryption key", keys.get_secret_value().partition(":")[2])
        made.secrets.add("api key", (await service.api_key())[1])
        yield made


async def _bearer(stranger: Stranger) -> tuple[str, str]:
    header = (await stranger.service.token())["Authorization"]
    stranger.secrets.add("api token", header.removeprefix("Bearer "))
    return ("authorization", header)


@EXAMPLES
@given(
    operation=st.sampled_from(OPERATIONS),
    word=texts,
    query=queries,
    body=bodies,
    kind=kinds,
)
async def test_the_api_answers_what_its_description_says(
    stranger: Stranger, operation: Operation, word: str, query: list[tuple[str, str]], body: bytes, kind: str
) -> None:
    before, _, after = operation.path.partition("{")
    path = before + quote(word, safe="") if after else before
    headers = [await _bearer(stranger), ("content-type", kind)]
    status, answered = await stranger.send(operation.method, path, query=query, headers=headers, body=body)
    if status == operation.status:
        if operation.answer is not None:
            operation.answer.model_validate_json(answered)
        return
    assert status in {*operation.refusals, *ALWAYS, 404, 405}
    Problem.model_validate_json(answered)


@EXAMPLES
@given(header=texts, operation=st.sampled_from(OPERATIONS))
async def test_no_made_up_token_gets_in(stranger: Stranger, header: str, operation: Operation) -> None:
    path = operation.path.partition("{")[0] + ("x" if "{" in operation.path else "")
    for given_header in (header, f"Bearer {header}", f"Bearer ewst_{header}"):
        status, _ = await stranger.send(operation.method, path, headers=[("authorization", given_header)])
        assert status == 401


names = st.sampled_from(["code", "state", "error", "error_description", "error_hint", "iss", "scope", "utm"])


@EXAMPLES
@given(query=st.lists(st.tuples(names, texts), max_size=6), cookie=texts)
async def test_the_callback_stands_any_query_and_cookie(
    stranger: Stranger, query: list[tuple[str, str]], cookie: str
) -> None:
    state = dict(query).get("state", "")
    headers = [("cookie", f"{cookie_name(state)}={cookie}")]
    status, answered = await stranger.send("GET", "/auth/segment/callback", query=query, headers=headers)
    assert status in {400, 403, 404, 409}
    assert b"<html" in answered
    async with stranger.service.services.database.transaction() as session:
        assert await installs.list_all(session) == []


@EXAMPLES
@given(
    method=st.sampled_from(["GET", "POST"]),
    path=st.sampled_from(["/connect/", "/status/", "/auth/segment/", "/dashboard/sign-in/", "/"]),
    word=texts,
    query=queries,
    body=bodies,
    form=st.booleans(),
)
async def test_links_and_pages_stand_anything(
    stranger: Stranger, method: str, path: str, word: str, query: list[tuple[str, str]], body: bytes, form: bool
) -> None:
    headers = [("content-type", "application/x-www-form-urlencoded" if form else "multipart/form-data; boundary=x")]
    await stranger.send(method, path + quote(word, safe=""), query=query, headers=headers, body=body)
    await stranger.send("GET", "/auth/segment", query=[*query, ("link", word)])


@EXAMPLES
@given(page=st.sampled_from(PAGES), act=st.sampled_from(ACTS), word=texts, query=queries, form=queries)
async def test_the_dashboard_stands_anything_an_operator_types(
    stranger: Stranger,
    page: tuple[str, object],
    act: tuple[str, object],
    word: str,
    query: list[tuple[str, str]],
    form: list[tuple[str, str]],
) -> None:
    sessions = stranger.service.services.operators.sessions
    token = await sessions.begin(Operator("ana", Role.OPERATOR), by="test")
    stranger.secrets.add("session", token)
    cookie = ("cookie", f"operator={token}")
    path = page[0].partition("{")[0] + (quote(word, safe="") if "{" in page[0] else "")
    await stranger.send("GET", path, query=query, headers=[cookie])
    before, _, after = act[0].partition("{")
    path = before + quote(word, safe="") + after.partition("}")[2] if after else before
    body = "&".join(f"{quote(name)}={quote(value)}" for name, value in [("reason", "why"), ("id", word), *form])
    kind = ("content-type", "application/x-www-form-urlencoded")
    await stranger.send("POST", path, headers=[cookie, kind], body=body.encode())


def test_a_problem_never_repeats_a_long_input() -> None:
    assert len(ApiProblem(400, "x", "y").response().body) < 100


def test_how_many_requests_were_tried() -> None:
    """Runs last in this file, so that the count stands in the report."""
    print(f"tried {TRIED.total()} requests: {dict(sorted(TRIED.items()))}")  # noqa: T201 - the report is the purpose
    assert not any(name.split()[1].startswith("5") for name in TRIED)
