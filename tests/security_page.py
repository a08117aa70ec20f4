"""Writes ``docs/security.md``: which security statement is shown by which test, read from the tests' names.

A test shows statement OA-4 when its name begins with ``test_oa_04_``, and two with ``test_tk_13_tk_14_``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from tests.conformance import ROOT, named_tests

PAGE = ROOT / "docs" / "security.md"
_NAME = re.compile(r"test_((?:(?:oa|tk|wh|em|da|op)_\d{1,2}_)+)(\w+)")
_STATEMENT = re.compile(r"([a-z]{2})_(\d{1,2})_")

STATEMENTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "OA": (
        "Authorization request and callback",
        (
            "states are unique, random and safe in URLs",
            "a valid state without its flow's cookie is refused, and no token is asked for",
            "a cookie of another flow is refused",
            "many identical callbacks exchange once",
            "a state that is too old is refused although it is still stored",
            "two tabs complete in either order",
            "PKCE S256: the verifier differs per flow and shows up nowhere",
            "a code injected from another flow is refused",
            "repeated parameters are refused before any I/O",
            "an issuer that isn't Segment is refused",
            "the redirect URI is the configured text, whatever the request's headers say",
            "an error uses the state up, and nothing of it is reflected unescaped",
            "pages cannot be framed, cached, referred from or injected into",
            "the browser ends on an address without code and state",
            "return addresses lead nowhere but to listed origins",
            "redirects are 302 or 303",
            "the token endpoint: TLS verified, plain http refused, redirects not followed",
            "odd token answers are typed errors, never half a row",
            "a grant without what was asked for is not activated",
            "a reconnect to another workspace or source changes nothing",
            "a link of one account in a browser signed in as another is refused",
            "no account reaches another account's install",
            "looking ahead (HEAD, prefetch) creates no flow",
            "starts are rate limited, flows are capped and purged",
            "several apps in one process keep their states apart",
        ),
    ),
    "TK": (
        "Tokens and keys",
        (
            "no secret is in the database in clear",
            "a ciphertext that was moved does not open",
            "a changed ciphertext does not open, and the error tells nothing",
            "missing, short, doubled or wrong keys stop the start by name",
            "re-encryption leaves no row on the old key while the service answers",
            "re-encryption that was killed and run again ends the same",
            "many tasks in many processes mint once",
            "a frozen lease holder's late write changes nothing",
            "a cut connection costs at most one further mint",
            "an API that always refuses gets a bounded number of calls",
            "revoked upstream: secrets gone, deliveries refused",
            "the client secret goes to two origins only and prints masked",
            "logs at DEBUG hold no secret",
            "errors and tracebacks hold no secret",
            "a refresh is neither cached nor retried by the transport",
            "panic stops every process within a second",
        ),
    ),
    "WH": (
        "Webhook receiver",
        (
            "a malformed Authorization header is 401 without touching the store",
            "keys are looked up by keyed hash",
            "both keys work during the overlap of a rotation, the old one not after it",
            "the body limit holds while streaming",
            "gzip bombs and unknown encodings are refused",
            "hostile JSON is 400, and the process lives on",
            "unreadable settings never lose an event; settings never choose code or hosts",
            "202 only after the event is durable",
            "the same messageId has one effect per install",
            "an event never meets another install's context",
            "each kind of failure has its status",
            "messages hold no internals",
            "other methods are 405, and there are no CORS headers",
            "a noisy tenant holds nobody up",
            "a delete reaches every place and leaves a receipt",
            "stored payloads have a bounded life",
            "an offer of an upgrade is ignored, and the body stays the request's",
            "no request holds the event loop for longer than its size explains",
            "a request head, and the time for it, is bounded",
            "trouble of our own is 503 or no answer, in every layer",
            "no exception of a handler keeps a slot or an event",
            "a batch signed as a whole or by its first element is accepted",
            "white space around a key is ignored, and no other change of it",
            "texts that handlers write are masked wherever they are shown",
            "after a deletion no file holds a text of the person",
        ),
    ),
    "EM": (
        "Links, button, browser",
        (
            "connect links: random, hashed, short-lived, bound",
            "used, expired and invented links look the same",
            "looking at a link does not use it up",
            "pages that change something refuse framing",
            "messages between windows carry no truth",
            "the flow completes without an opener",
            "the button works under a strict content security policy",
            "no third-party cookie is needed",
        ),
    ),
    "DA": (
        "Dashboard",
        (
            "unsafe requests need a same-site origin and a session",
            "no secret is ever shown",
            "customers' text is neutralised wherever it is shown",
            "every act leaves an audit entry that cannot be changed",
        ),
    ),
    "OP": (
        "Operations",
        (
            "dependency floors hold",
            "every default is the safe one",
            "the sandbox stays on this machine",
            "outgoing requests to customers' addresses cannot reach inside",
            "doctor fails on what must not go to production",
        ),
    ),
}


def shown() -> dict[tuple[str, int], list[tuple[str, str]]]:
    """Return for each statement the tests that show it: what the name says, and the file."""
    found: dict[tuple[str, int], list[tuple[str, str]]] = defaultdict(list)
    for name, path in named_tests():
        match = _NAME.fullmatch(name)
        if match is not None:
            for group, number in _STATEMENT.findall(match[1]):
                found[group.upper(), int(number)].append((match[2].replace("_", " "), path))
    return found


def page() -> str:
    """Return the page's text."""
    found = shown()
    total = sum(len(statements) for _, statements in STATEMENTS.values())
    covered = sum((group, n) in found for group, (_, s) in STATEMENTS.items() for n in range(1, len(s) + 1))
    lines = [
        "# Security statements",
        "",
        "What this service promises about security, and the tests that show it. The threat model is in",
        "[SECURITY.md](../SECURITY.md). This page is made from the tests' names by `make conformance`; a test fails",
        "when it is out of date.",
        "",
        f"**{covered} of {total} statements have a test that carries their name.**",
    ]
    for group, (title, statements) in STATEMENTS.items():
        lines += ["", f"## {title}", "", "| | Statement | Shown by |", "|---|---|---|"]
        for number, statement in enumerate(statements, start=1):
            tests = found.get((group, number), [])
            told = "<br>".join(dict.fromkeys(f"{name} (`{Path(path).name}`)" for name, path in tests))
            lines.append(f"| {group}-{number} | {statement} | {told or '**not covered yet**'} |")
    return "\n".join(lines) + "\n"
