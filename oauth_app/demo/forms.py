"""Reading the forms of a page, enough to fill one in and send it as a browser would."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin


@dataclass(slots=True)
class Form:
    """One form: where it goes, and the values it would send if nothing were touched."""

    action: str
    method: str
    values: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    choices: dict[str, list[str]] = field(default_factory=dict)

    def filled(self, **values: str) -> dict[str, str]:
        """Return what the form sends with the given values in it."""
        return {**self.values, **values}


class _Reader(HTMLParser):
    def __init__(self, page_url: str) -> None:
        super().__init__()
        self._page_url = page_url
        self._select: str | None = None
        self.forms: list[Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            action = urljoin(self._page_url, given.get("action", ""))
            self.forms.append(Form(action, given.get("method", "get").lower()))
        elif self.forms:
            self._handle_field(self.forms[-1], tag, given)

    def _handle_field(self, form: Form, tag: str, given: dict[str, str]) -> None:
        name, value = given.get("name", ""), given.get("value", "")
        if tag == "input" and name:
            form.values[name] = value
        elif tag == "button" and name:
            form.buttons.append((name, value))
        elif tag == "select":
            self._select = name
        elif tag == "option" and self._select is not None:
            form.choices.setdefault(self._select, []).append(value)
            if "selected" in given or self._select not in form.values:
                form.values[self._select] = value

    def handle_endtag(self, tag: str) -> None:
        if tag == "select":
            self._select = None


def read_forms(page: str, page_url: str) -> list[Form]:
    """Return the forms of a page, in order."""
    reader = _Reader(page_url)
    reader.feed(page)
    return reader.forms
