"""The ``X-Signature`` of Segment's Webhooks destinations (contract 5.12): pure functions over raw bytes.

The signature is the lower-case hex HMAC-SHA1 of the JSON text that was sent. Of a batch it is that of its first element
alone; Segment prepares to sign the whole body instead, so either is accepted (WH-22).
It is verified over the bytes as received: JSON that was parsed and written again is another text (``1.0``, ``\\/``,
the order of keys), and the signature would not fit.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+"
# A whole string at a time, so that brackets and commas inside of it are not seen; and a whole object or array at a
# time where nothing is nested in it, because that is most of an event, and a batch may be 32 MB.
# The quote at the end begins a string that does not end.
_TOKEN = re.compile(rb"\{" + _FLAT + rb"\}|\[" + _FLAT + rb"\]|" + _STRING + rb'|[\[\]{},"]', re.DOTALL)
_WHOLE_STRINGS = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.DOTALL)
_BRACKET_OR_COMMA = re.compile(rb"[\[\]{},]")
_TOKENS_OF_FIRST = 50_000
"""What is looked at of an element before its sender has proved anything; one of 32 KB has at most a third of that."""
_TOKENS_OF_BATCH = 2_000_000
PAUSE_AFTER = 10_000
"""Tokens between two pauses: some milliseconds."""


class BatchInvalid(ValueError):
    """The text is not a JSON array whose elements can be told apart."""


class BatchUnfinished(BatchInvalid):
    """The array does not end."""


class TooMuchStructure(BatchInvalid):
    """Reading the array would take longer than any honest one does."""


class SignedTextTooLong(ValueError):
    """What was signed is longer, or holds more structure, than it may."""


def sign(secret: str, text: bytes) -> str:
    """Return the signature of a JSON text."""
    return hmac.new(secret.encode(), text, hashlib.sha1).hexdigest()


def is_signed_with(secret: str, text: bytes, signature: bytes) -> bool:
    """Tell whether a presented signature is the text's, in constant time."""
    return hmac.compare_digest(sign(secret, text).encode(), signature)


def is_batch(body: bytes) -> bool:
    """Tell whether a body is an array."""
    return body[:64].removeprefix(_BYTE_ORDER_MARK).lstrip(_BLANK).startswith(b"[")


def signed_text(body: bytes, *, most: int | None = None) -> bytes:
    """Return the whole body, or the first element of a batch (nothing of an empty one).

    Args:
        most: how many bytes of the body it may take; of a batch, no more than these are looked at.

    Raises:
        BatchInvalid: it begins like an array and is none.
        SignedTextTooLong: it does not end within ``most`` bytes.
    """
    head = body[:most]
    is_cut = len(head) < len(body)
    if not is_batch(body):
        if is_cut:
            raise SignedTextTooLong
        return body
    try:
        text = next(filter(None, elements(head, most_tokens=_TOKENS_OF_FIRST)), b"")
    except TooMuchStructure:
        raise SignedTextTooLong from None
    except BatchUnfinished:
        if is_cut:
            raise SignedTextTooLong from None
        raise
    # In a string that was cut off, a comma or a bracket of its text looks like the end of the element.
    if is_cut and _WHOLE_STRINGS.fullmatch(text) is None:
        raise SignedTextTooLong
    return text


def elements(body: bytes, *, most_tokens: int = _TOKENS_OF_BATCH) -> Iterator[bytes | None]:
    """Yield the raw text of each element of a JSON array, one after the other, and ``None`` where the caller may pause.

    Elements are told apart by brackets and commas alone, whatever else is wrong inside of them: one that is no JSON
    does not spoil its neighbours.

    Raises:
        BatchInvalid: no array, one that does not end, or an element that is empty.
        TooMuchStructure: more brackets, commas and strings than any batch of Segment's has.
    """
    opening = body.find(b"[")
    if opening < 0 or not is_batch(body):
        raise BatchInvalid("it is not an array")
    depth, start = 1, opening + 1
    for number, token in enumerate(_tokens(body, start), start=1):
        if number % PAUSE_AFTER == 0:
            if number > most_tokens:
                raise TooMuchStructure("it holds too many brackets, commas and strings")
            yield None
        kind = token.group()
        if kind in (b"[", b"{"):
            depth += 1
        elif kind in (b"]", b"}"):
            depth -= 1
        if depth == 0 or (depth == 1 and kind == b","):
            text = body[start : token.start()].strip(_BLANK)
            start = token.end()
            if text:
                yield text
            elif depth or body[opening + 1 : token.start()].strip(_BLANK):
                raise BatchInvalid("it holds an empty element")
            if depth == 0:
                if body[start:].strip(_BLANK):
                    raise BatchInvalid("something follows the array")
                return
    raise BatchUnfinished("the array does not end")


def _tokens(body: bytes, start: int) -> Iterator[re.Match[bytes]]:
    """Yield brackets, commas and what needs no looking into.

    Behind a string that does not end no other one begins. Each escaped quote in there would be taken for the
    beginning of one, and looked behind to the end of the body: that took minutes for 200 KB.
    """
    for token in _TOKEN.finditer(body, start):
        if token.group() == b'"':
            yield from _BRACKET_OR_COMMA.finditer(body, token.end())
            return
        yield token
