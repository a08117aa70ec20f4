"""The partner's identifiers of accounts: one check for all of them, and no way around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import accounts
from enable_with_segment.db.database import Database
from enable_with_segment.db.identifiers import AccountInvalid, check_account

BAD: list[object] = [
    42,
    None,
    b"acct_1",
    ["acct_1"],
    "",
    "x" * 201,
    "x" * 5000,
    " a",
    "a\n",
    "a\x00b",
    "\ud800",
    "a\x85",
]


@pytest.mark.parametrize("account", BAD, ids=repr)
async def test_an_account_that_cannot_be_is_refused_and_never_stored(
    sqlite_database: Database, account: object
) -> None:
    with pytest.raises(
        AccountInvalid, match=r"^an account is 1 to 200 printable characters without spaces around them$"
    ):
        check_account(account)
    with pytest.raises(AccountInvalid):
        async with sqlite_database.transaction() as session:
            await accounts.ensure(session, account, now=utc_now())  # type: ignore[arg-type]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=220))
def test_what_passes_is_returned_as_it_is(account: str) -> None:
    try:
        assert check_account(account) == account
    except AccountInvalid:
        assert len(account) > 200 or not account.isprintable() or account != account.strip()
    else:
        assert "\x00" not in account
