"""The sandbox's HTML pages. They work without JavaScript and load nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_environment = Environment(
    loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_environment.globals["style"] = Markup(_STYLE)  # noqa: S704  # our own stylesheet, hashed into the policy above


def page(template: str, status: int = 200, **values: object) -> HTMLResponse:
    """Render a template; every value is escaped."""
    html = _environment.get_template(template).render(values)
    return HTMLResponse(html.encode(errors="replace"), status, _HEADERS)


def message(title: str, text: str, code: str = "", status: int = 400) -> HTMLResponse:
    """A page that says one thing."""
    return page("message.html", status, title=title, text=text, code=code)
