"""One signer for links, cookies and derived values."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.signer import Signer

PARTS = st.lists(st.text().filter(lambda text: "\x1f" not in text), min_size=1, max_size=3)


@given(PARTS, PARTS)
def test_a_signature_verifies_for_its_own_parts_only(parts: list[str], others: list[str]) -> None:
    signer = Signer(b"s" * 32, "flow")
    signature = signer.sign(*parts)
    assert len(signature) == 43
    assert signer.verify(signature, *parts)
    if [part.encode("utf-8", "replace") for part in parts] != [part.encode("utf-8", "replace") for part in others]:
        assert not signer.verify(signature, *others)
    assert not Signer(b"s" * 32, "status").verify(signature, *parts)
    assert not Signer(b"t" * 32, "flow").verify(signature, *parts)
    assert not signer.verify("é" + signature[1:], *parts)
