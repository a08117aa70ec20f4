"""Writes the documentation pages that are made from the tests: ``make conformance``."""

from __future__ import annotations

from tests import conformance, security_page

if __name__ == "__main__":
    for made in (conformance, security_page):
        made.PAGE.write_text(made.page(), encoding="utf-8")
