"""Pages for customers: server-rendered, one stylesheet, no script, no address of anybody else in the HTML."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import HTMLResponse

from enable_with_segment.db.control.tables import Install
from enable_with_segment.installs.record import InstallChoice
from enable_with_segment.installs.status import tell_status
from enable_with_segment.oauth_app.flow.failures import FAILURES, FailureReason, NextStep

_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


class Pages:
    """Renders every page with the headers that keep it from being framed, cached, referred from or injected into."""

    def __init__(
        self, *, partner_name: str, support_url: str | None, start_url: str | None, base_path: str = ""
    ) -> None:
        self._partner = partner_name
        self._start_url = start_url
        self._environment = Environment(
            loader=FileSystemLoader(_FOLDER / "templates"),
            autoescape=select_autoescape(default=True, default_for_string=True),
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._environment.globals.update(
            partner=partner_name,
            support_url=support_url,
            base_path=base_path,
            style=Markup(_STYLE),  # noqa: S704 - our own file
            refresh_seconds=None,
        )

    def connect(self, account: str) -> HTMLResponse:
        """The page that names the account and asks before anything is started (design decision 3)."""
        # No form-action rule: browsers apply it to the whole redirect chain, which leads through Segment's hosts.
        return self._page("connect.html", {"account": account}, form_action=None, referrer="same-origin")

    def failure(
        self,
        reason: FailureReason,
        *,
        incident: str | None = None,
        return_to: str | None = None,
        manual_key_state: str | None = None,
        choices: Sequence[InstallChoice] = (),
    ) -> HTMLResponse:
        """The page of one failure: what happened, and what to do next.

        Args:
            manual_key_state: the state of a flow whose browser may have a key to paste, or choose.
            choices: installs, one of which the customer means.
        """
        failure = FAILURES[reason]
        return self._page(
            "failure.html",
            {
                "heading": self._named(failure.title),
                "sentence": self._named(failure.text),
                "next_step": failure.next_step.value,
                "start_url": self._start_url
                if failure.next_step is NextStep.START_AGAIN or failure.next_step.offers_key
                else None,
                "return_to": return_to,
                "incident": incident,
                "manual_key_state": manual_key_state,
                "choices": [
                    {
                        "id": choice.id,
                        "workspace": choice.workspace_name.removeprefix("workspaces/"),
                        "source": (choice.source_name or "").rpartition("/")[2],
                        "status": choice.status.value.replace("_", " "),
                    }
                    for choice in choices
                ],
            },
            status=failure.status,
            referrer="same-origin" if manual_key_state else "no-referrer",
        )

    def status(self, install: Install, *, return_to: str | None, now: datetime) -> HTMLResponse:
        """The page that shows where an install stands, and refreshes itself while it moves."""
        told = tell_status(install, now=now)
        return self._page(
            "status.html",
            {
                "heading": self._named(told.heading),
                "sentence": self._named(told.sentence),
                "bad": told.bad,
                "steps": told.steps,
                "account": install.account,
                "workspace": install.workspace_name.removeprefix("workspaces/"),
                "source": (install.source_name or "").rpartition("/")[2],
                "last_event_at": install.last_event_at and f"{install.last_event_at:%Y-%m-%d %H:%M} UTC",
                "confirm_overwrite": told.confirm_overwrite,
                "can_retry": told.can_retry,
                "retry_label": told.retry_label,
                "reconnect": told.reconnect,
                "reconnect_url": f"{self._start_url}?reconnect={install.id}"
                if told.reconnect and self._start_url
                else None,
                "return_to": return_to,
                "refresh_seconds": told.refresh_seconds,
            },
            referrer="same-origin",
        )

    def manual_key(self, *, account: str, api_key: str, return_to: str | None) -> HTMLResponse:
        """The one page that shows an API key, right after it was minted."""
        return self._page("manual_key.html", {"account": account, "api_key": api_key, "return_to": return_to})

    def pending(self) -> HTMLResponse:
        """The same callback is being worked on by an earlier request; the page asks again by itself."""
        return self._page("pending.html", {"refresh_seconds": 1})

    def home(self) -> HTMLResponse:
        """What stands at the root."""
        return self._page("home.html", {})

    def _named(self, text: str) -> str:
        return text.replace("{partner}", self._partner)

    def _page(
        self,
        template: str,
        values: Mapping[str, Any],
        *,
        status: int = 200,
        form_action: str | None = "'self'",
        referrer: str = "no-referrer",
    ) -> HTMLResponse:
        policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; frame-ancestors 'none'"
        if form_action is not None:
            policy += f"; form-action {form_action}"
        return HTMLResponse(
            self._environment.get_template(template).render(values),
            status_code=status,
            headers={
                "Content-Security-Policy": policy,
                "X-Frame-Options": "DENY",
                "X-Content-Type-Options": "nosniff",
                "Referrer-Policy": referrer,
                "Cache-Control": "no-store",
            },
        )
