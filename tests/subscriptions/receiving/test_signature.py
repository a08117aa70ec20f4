"""Signatures over raw bytes, with the contract's vectors."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.subscriptions.receiving.signature import (
    BatchInvalid,
    SignedTextTooLong,
    elements,
    is_batch,
    is_signed_with,
    sign,
    signed_text,
)

SECRET = "quiet-harbour-42"
VECTORS = [
    (
        '{"type":"track","event":"Ticket Closed","userId":"u-881","messageId":"m-0001"}',
        "4ad6918a833c2aafb72b2845d6386d40a8387ea9",
    ),
    (
        '[{"type":"track","event":"Ticket Closed","userId":"u-881","messageId":"m-0001"},'
        '{"type":"identify","userId":"u-882","messageId":"m-0002"}]',
        "4ad6918a833c2aafb72b2845d6386d40a8387ea9",
    ),
    (
        '{"type":"identify","userId":"u-9","traits":{"name":"Zoë","score":1.5}}',
        "d405fe52799b43dac7bed474e45462d42659cbe1",
    ),
    (
        '[{"type":"identify","userId":"u-9","traits":{"name":"Zoë","score":1.5}},'
        '{"type":"track","event":"Ünlü","userId":"u-9"}]',
        "d405fe52799b43dac7bed474e45462d42659cbe1",
    ),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@pytest.mark.parametrize(("body", "signature"), VECTORS)
def test_cases_108_110_the_contracts_vectors(body: str, signature: str) -> None:
    text = signed_text(body.encode())
    assert sign(SECRET, text) == signature
    assert is_signed_with(SECRET, text, signature.encode())
    assert not is_signed_with("another secret", text, signature.encode())
    assert not is_signed_with(SECRET, text + b" ", signature.encode())


@pytest.mark.parametrize("presented", [b"", b"4ad6918a", b"x" * 40, "ë".encode() * 20, b"4" * 4_000])
def test_a_signature_of_any_other_form_is_wrong_and_nothing_else(presented: bytes) -> None:
    assert not is_signed_with(SECRET, VECTORS[0][0].encode(), presented)


@given(st.lists(JSON), st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", ":\r\n")]), st.booleans())
def test_elements_are_the_raw_texts_of_any_array(
    values: list[object], separators: tuple[str, str], ensure_ascii: bool
) -> None:
    text = json.dumps(values, separators=separators, ensure_ascii=ensure_ascii)
    found = [text for text in elements(text.encode("utf-8", "surrogatepass")) if text is not None]
    assert [json.loads(element) for element in found] == values
    assert all(element in text.encode("utf-8", "surrogatepass") for element in found)


@given(st.binary(max_size=60))
def test_elements_of_anything_are_elements_or_a_refusal(body: bytes) -> None:
    try:
        found = list(elements(b"[" + body))
    except BatchInvalid:
        return
    assert all(element and element in body for element in found)


@pytest.mark.parametrize(
    "body", [b"[", b"[1", b"[1,]", b"[,1]", b"[1,,2]", b"[1] 2", b"[1][2]", b'["a', b"{}", b"", b"x[1]"]
)
def test_what_is_no_array_is_refused(body: bytes) -> None:
    with pytest.raises(BatchInvalid):
        list(elements(body))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", []),
        (b" [ ] ", []),
        (b"\xef\xbb\xbf[1]", [b"1"]),
        (b'[nan, {"a": [1, 2]}, 007]', [b"nan", b'{"a": [1, 2]}', b"007"]),
        (b'["],\\"[", 1]', [b'"],\\"["', b"1"]),
    ],
)
def test_elements_are_told_apart_whatever_they_hold(body: bytes, expected: list[bytes]) -> None:
    assert list(elements(body)) == expected
    assert signed_text(body) == (expected[0] if expected else b"")


@given(st.lists(JSON, min_size=1), st.integers(1, 200))
def test_a_signed_text_is_found_within_so_many_bytes_or_not_at_all(values: list[object], most: int) -> None:
    text = json.dumps(values)
    _, end = json.JSONDecoder().raw_decode(text, 1)
    if end < most:  # and what tells that it ends there
        assert signed_text(text.encode(), most=most) == text[1:end].encode()
    else:
        with pytest.raises(SignedTextTooLong):
            signed_text(text.encode(), most=most)


@pytest.mark.parametrize("text", ['a,b"]', 'a"}]', '\\",', "x" * 9])
def test_a_text_that_is_cut_off_is_no_end_of_an_element(text: str) -> None:
    body = json.dumps([{"text": text}, 1]).encode()
    end = body.index(b"}, 1")
    for most in range(1, end + 2):
        with pytest.raises(SignedTextTooLong):
            signed_text(body, most=most)
    assert signed_text(body, most=end + 2) == signed_text(body) == body[1 : end + 1]


def test_what_is_no_batch_may_be_so_long() -> None:
    assert signed_text(b'{"a":1}', most=7) == b'{"a":1}'
    with pytest.raises(SignedTextTooLong):
        signed_text(b'{"a":1}', most=6)
    with pytest.raises(BatchInvalid):
        signed_text(b"[,1]", most=3)


def test_only_an_array_is_a_batch() -> None:
    assert is_batch(b" \n[1]")
    assert not is_batch(b'{"a":[1]}')
    assert signed_text(b' {"a": 1} ') == b' {"a": 1} '
