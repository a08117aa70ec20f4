"""Watches every test for secrets that were written somewhere (security TK-13, TK-14).

Each secret that a test makes is noted where it is made: what is encrypted or opened, what is wrapped as a
:class:`~segment_api.secret.Secret`, tokens of links, sessions, flows and the API, encryption keys, and the sandbox's
install tokens and codes. At the test's end none of them may stand in a log record (the product logs at DEBUG), in the
body of an answer of the product, in the output of a command, or in the log of a process. Where one is meant to be
shown, :data:`SHOWN` says so, or the test itself with ``leak_watch.allow(kind, place)``.
"""

from __future__ import annotations

import base64
import functools
import logging
import secrets
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final

import pytest
import typer.testing
from starlette.types import Receive, Scope, Send

from enable_with_segment.db.encryption import EncryptionKeys, Place
from enable_with_segment.oauth_app.flow.cookies import FlowCookies
from enable_with_segment.oauth_app.operators.api_tokens import ApiTokens, MintedToken
from enable_with_segment.oauth_app.web import application
from enable_with_segment.segment_api.secret import Secret
from enable_with_segment.segment_sandbox.world import World
from enable_with_segment.subscriptions.receiving.webhook import Webhook
from tests.leaks import KnownSecrets

PRODUCT = ("enable_with_segment",)
# What the product's own logging keeps at warnings, because it holds headers and whole addresses.
QUIET = ("httpx", "httpcore", "aiosqlite", "sqlalchemy", "alembic", "asyncio", "authlib", "hypothesis")
FLOW: Final = "state or cookie of a flow"
TOKENS_OF: Final = {
    "enable_with_segment.installs.connect_links": "connect link",
    "enable_with_segment.oauth_app.flow.flow_starts": FLOW,
    "enable_with_segment.oauth_app.web.routes.install": FLOW,
    "enable_with_segment.oauth_app.operators.logins": "state or cookie of a login",
    "enable_with_segment.oauth_app.operators.sessions": "operator's session",
    "enable_with_segment.oauth_app.operators.sign_in_links": "sign-in link",
}
API_KEY: Final = "api_keys.key_ciphertext"
SIGNING_SECRET: Final = "api_keys.signing_secret_ciphertext"
SHOWN: Final = (
    (API_KEY, "answer to POST /api/v1/api-keys"),
    (SIGNING_SECRET, "answer to POST /api/v1/api-keys"),
    (API_KEY, "answer to POST /auth/segment/manual-key"),
    *((kind, f"output of api-keys {act}") for kind in (API_KEY, SIGNING_SECRET) for act in ("create", "rotate")),
    ("API token", "output of api-tokens create"),
    ("connect link", "answer to POST /api/v1/connect-links"),
    ("connect link", "answer to GET /connect/"),
    ("connect link", "output of connect-link"),
    ("encryption key", "output of encryption-keys generate"),
    ("encryption key", "output of encryption-keys rotate"),
    ("sign-in link", "output of dashboard-link"),
)
"""Kinds of secrets, and the beginnings of the places that are there to show them."""

_SHORTEST = 12
_SHORTEST_IN_A_PATH = 16


class LeakWatch:
    """The secrets of one test, and what was written while it ran."""

    def __init__(self) -> None:
        self._lasting = KnownSecrets()
        self._of_test: KnownSecrets | None = None
        self._written: dict[str, set[bytes]] = defaultdict(set)
        self._allowed: set[tuple[str, str]] = set()

    def begin(self) -> None:
        """Forget the test before. What was made outside of a test, by a fixture of the session, is remembered."""
        self._of_test = KnownSecrets()
        self._written.clear()
        self._allowed = set(SHOWN)

    def end(self) -> list[str]:
        """Return "kind in place" of everything that leaked, and stop watching."""
        known, self._of_test = self._of_test or KnownSecrets(), None
        for kind, values in self._lasting.by_kind.items():
            known.add(kind, *values)
        places = {place: b"\n".join(texts) for place, texts in self._written.items()}
        if not known.leaks({"anywhere": b"\n".join(places.values())}):
            return []
        return [
            f"{kind} in {place}"
            for place, content in sorted(places.items())
            for kind in sorted({found.rpartition(" in ")[0] for found in known.leaks({"": content})})
            if not any(kind == shown and place.startswith(begins) for shown, begins in self._allowed)
        ]

    def secret(self, kind: str, *values: str) -> None:
        """Note secrets. Short ones are the made-up words of a test, and would be found by chance."""
        known = self._lasting if self._of_test is None else self._of_test
        known.add(kind, *(value for value in values if len(value) >= _SHORTEST))

    def wrote(self, place: str, content: bytes) -> None:
        """Note something that was written while the test ran."""
        if self._of_test is not None and content:
            self._written[place].add(content)

    def allow(self, kind: str, place: str) -> None:
        """Say that this test means to show a kind of secret in places whose name begins so."""
        self._allowed.add((kind, place))


WATCH = LeakWatch()
_FORMATTER = logging.Formatter()


@pytest.fixture(autouse=True)
def leak_watch(_hooks: None) -> Iterator[LeakWatch]:
    """Watch this test; it fails when a secret was written somewhere."""
    WATCH.begin()
    yield WATCH
    leaked = WATCH.end()
    assert not leaked, "\n".join(leaked)


@pytest.fixture(scope="session")
def _hooks() -> Iterator[None]:
    """Listen where secrets are made, and where something is written."""
    with pytest.MonkeyPatch.context() as patch:
        for hook in (_encryption, _secrets, _tokens, _sandbox, _logs, _answers, _commands):
            hook(patch)
        yield


def _around(patch: pytest.MonkeyPatch, owner: type, name: str, before: Callable[..., None]) -> None:
    """Call ``before`` with the same arguments, and then the method."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def hooked(*arguments: Any, **named: Any) -> Any:
        before(*arguments, **named)
        return method(*arguments, **named)

    patch.setattr(owner, name, hooked)


def _encryption(patch: pytest.MonkeyPatch) -> None:
    def made(_self: EncryptionKeys, keys: Mapping[str, bytes], **_named: object) -> None:
        WATCH.secret("encryption key", *(form for key in keys.values() for form in _forms(key)))

    def encrypted(_self: EncryptionKeys, plaintext: str, place: Place) -> None:
        WATCH.secret(f"{place.table}.{place.column}", plaintext)

    opened = EncryptionKeys.decrypt

    def decrypt(self: EncryptionKeys, ciphertext: str, place: Place) -> str:
        plaintext = opened(self, ciphertext, place)
        encrypted(self, plaintext, place)
        return plaintext

    _around(patch, EncryptionKeys, "__init__", made)
    _around(patch, EncryptionKeys, "encrypt", encrypted)
    patch.setattr(EncryptionKeys, "decrypt", decrypt)


def _forms(key: bytes) -> Sequence[str]:
    return base64.b64encode(key).decode(), key.hex()


def _secrets(patch: pytest.MonkeyPatch) -> None:
    def wrapped(_self: Secret, value: str) -> None:
        WATCH.secret("wrapped secret", value)

    _around(patch, Secret, "__init__", wrapped)


def _tokens(patch: pytest.MonkeyPatch) -> None:
    token_urlsafe, mint, press = secrets.token_urlsafe, ApiTokens.mint, FlowCookies.of_press

    def random_token(nbytes: int | None = None) -> str:
        token = token_urlsafe(nbytes)
        kind = TOKENS_OF.get(sys._getframe(1).f_globals.get("__name__", ""))
        if kind == FLOW and nbytes == 48:
            kind = "code verifier"
        if kind is not None:
            WATCH.secret(kind, token)
        return token

    async def api_token(self: ApiTokens, *arguments: Any, **named: Any) -> MintedToken:
        minted = await mint(self, *arguments, **named)
        WATCH.secret("API token", minted.token)
        return minted

    def of_press(self: FlowCookies, *arguments: Any) -> tuple[str, str]:
        state, cookie = press(self, *arguments)
        WATCH.secret(FLOW, state)
        WATCH.secret(FLOW, cookie)
        return state, cookie

    patch.setattr(secrets, "token_urlsafe", random_token)
    patch.setattr(FlowCookies, "of_press", of_press)
    patch.setattr(ApiTokens, "mint", api_token)


def _sandbox(patch: pytest.MonkeyPatch) -> None:
    def issued(_self: World, _install: object, value: str, *_more: object) -> None:
        WATCH.secret("install token", value)

    _around(patch, World, "issue_token", issued)


def _logs(patch: pytest.MonkeyPatch) -> None:
    def logged(_self: logging.Logger, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or not record.name.startswith(QUIET):
            WATCH.wrote(f"log of {record.name.partition('.')[0]}", _FORMATTER.format(record).encode())

    _around(patch, logging.Logger, "callHandlers", logged)
    for name in PRODUCT:
        patch.setattr(logging.getLogger(name), "level", logging.DEBUG)


def _answers(patch: pytest.MonkeyPatch) -> None:
    for owner in (application.ServiceApplication, Webhook):
        patch.setattr(owner, "__call__", _watched(owner.__call__))


def _watched(call: Callable[[Any, Scope, Receive, Send], Any]) -> Callable[[Any, Scope, Receive, Send], Any]:
    async def watched(self: object, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await call(self, scope, receive, send)
            return
        parts = [part if len(part) < _SHORTEST_IN_A_PATH else "…" for part in scope["path"].split("/")]
        place = f"answer to {scope['method']} {'/'.join(parts)}"

        async def tee(message: MutableMapping[str, Any]) -> None:
            WATCH.wrote(place, message.get("body", b""))
            await send(message)

        await call(self, scope, receive, tee)

    return watched


def _commands(patch: pytest.MonkeyPatch) -> None:
    invoke = typer.testing.CliRunner.invoke

    def invoked(
        self: typer.testing.CliRunner, app: typer.Typer, args: Any = None, *more: Any, **named: Any
    ) -> typer.testing.Result:
        result = invoke(self, app, args, *more, **named)
        WATCH.wrote(f"output of {command_name(args or ())}", result.output.encode())
        return result

    patch.setattr(typer.testing.CliRunner, "invoke", invoked)


def command_name(arguments: Sequence[str]) -> str:
    """The words of a command line that say which command it is."""
    words = [word for word in arguments[:2] if word.replace("-", "").isalpha() and not word.startswith("-")]
    return " ".join(words)
