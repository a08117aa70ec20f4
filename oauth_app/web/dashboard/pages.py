"""Rendering the dashboard, with the headers that keep it from being framed, cached, referred from or injected into."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from starlette.responses import HTMLResponse

from enable_with_segment.oauth_app.operators.roles import Operator

_FOLDER = Path(__file__).parent
_STYLE = "".join(
    path.read_text(encoding="utf-8") for path in (_FOLDER.parent / "pages" / "style.css", _FOLDER / "style.css")
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # With no-referrer a browser would send "Origin: null" with our own forms, and they would be refused.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """What stands around a page: who is signed in, and whether the service is stopped."""

    partner: str
    operator: Operator | None
    stopped: bool
    now: datetime
    base_path: str = ""
    """The path of BASE_URL, which every link begins with."""


def ago(instant: datetime | None, now: datetime) -> str:
    """Say how long ago something was, roughly."""
    if instant is None:
        return "never"
    seconds = int((now - instant).total_seconds())
    if seconds < 0:
        return f"in {_span(-seconds)}"
    return "just now" if seconds < 10 else f"{_span(seconds)} ago"


def _span(seconds: int) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length or (unit == "min" and seconds >= length):
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def _moment(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M:%S} UTC"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_FOLDER / "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.globals.update(style=Markup(_STYLE))  # noqa: S704 - our own files
_ENVIRONMENT.filters.update(moment=_moment, ago=ago)


def render(template: str, values: Mapping[str, Any], frame: Frame, *, status: int = 200) -> HTMLResponse:
    """Render a page."""
    html = _ENVIRONMENT.get_template(template).render(
        **values,
        partner=frame.partner,
        operator=frame.operator,
        stopped=frame.stopped,
        now=frame.now,
        base_path=frame.base_path,
    )
    return HTMLResponse(html, status_code=status, headers=_HEADERS)
