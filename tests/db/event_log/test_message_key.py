"""What makes two deliveries the same event, whatever changed in transmission (contract 5.7)."""

from __future__ import annotations

import pytest

from enable_with_segment.db.event_log.message_key import KEY_BYTES, key_of_body, key_of_message, same_content


def test_a_message_id_and_a_body_never_share_a_key() -> None:
    body = b'{"type":"track"}'
    assert len(key_of_message("m-1")) == len(key_of_body(body)) == KEY_BYTES
    assert key_of_message(body.decode()) != key_of_body(body)
    assert key_of_message("m-1") != key_of_message("m-2")
    assert key_of_message("\ud800") != key_of_message("\ud801")


def test_the_times_and_the_spelling_of_a_transmission_do_not_matter() -> None:
    first = b'{"type":"track","event":"A","sentAt":"2026-01-01T00:00:00Z","receivedAt":"2026-01-01T00:00:01Z"}'
    again = b'\xef\xbb\xbf{ "event": "\\u0041", "type": "track", "receivedAt": "2026-01-02T00:00:00Z" }'
    other = b'{"type":"track","event":"B"}'
    assert same_content(first, again)
    assert key_of_body(first) == key_of_body(again)
    assert not same_content(first, other)
    assert key_of_body(first) != key_of_body(other)


@pytest.mark.parametrize("kept", [b"no JSON", b"[1]", b"\xff", b"[" * 100_000], ids=["text", "array", "bytes", "deep"])
def test_what_is_no_json_object_is_only_like_itself(kept: bytes) -> None:
    assert same_content(kept, kept)
    assert not same_content(kept, b'{"type":"track"}')
