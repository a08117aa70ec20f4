"""What an answer to a delivery has to look like, so that Segment shows it."""

from __future__ import annotations

from enable_with_segment.http_client import httpx


def message(response: httpx.Response) -> str:
    """Return an answer's sentence, after checking that Segment would show it (contract 5.5)."""
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    text = response.json()["message"]
    assert isinstance(text, str)
    return text


def check_form(response: httpx.Response) -> None:
    """Check that an answer has a length, and that Segment would show a refusal (contract 5.5)."""
    if response.status_code == 202:
        assert response.headers["content-length"] == "0"
    else:
        message(response)
