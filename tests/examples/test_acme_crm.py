"""Contract cases 92-96 and 102-107: what ends up in a partner's product, and what is gone after a delete."""

from __future__ import annotations

import itertools
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment.components.event import EVENT_TYPES
from enable_with_segment.components.subscription import load_subscription
from enable_with_segment.db.control import audit
from enable_with_segment.db.event_log.states import EventState
from examples.acme_crm.contacts import company_traits, list_contacts
from examples.acme_crm.handlers import crm
from tests.subscriptions.receiver import Receiver

GO_TIME = "2025-04-09 21:02:11.480113907 +0000 UTC m=+51820.117442901"


def delete(user_id: str, minute: int = 30, **changes: Any) -> dict[str, Any]:
    return {
        "type": "delete",
        "channel": "server",
        "messageId": f"delete-{user_id}-{minute}",
        "userId": user_id,
        "context": None,
        "integrations": None,
        "timestamp": f"2026-03-02T10:{minute:02}:00.000Z",
        "originalTimestamp": GO_TIME,
        **changes,
    }


def event(event_type: str, minute: int = 0, **fields: Any) -> dict[str, Any]:
    identity = "-".join(str(fields.get(key)) for key in ("userId", "anonymousId", "previousId", "event"))
    return {
        "type": event_type,
        "messageId": f"{event_type}-{identity}-{minute}",
        "timestamp": f"2026-03-02T10:{minute:02}:00.000Z",
        **fields,
    }


async def send(acme: Receiver, *events: dict[str, Any], key: str | None = None) -> None:
    """Deliver events one after the other, each handled before the next one comes."""
    for payload in events:
        response = await acme.deliver(payload, key=key)
        assert response.status_code == 202, response.text
        await acme.dispatcher.run_due()


async def state_of(acme: Receiver, message_id: str) -> EventState:
    return (await acme.only(message_id=message_id)).state


def test_the_example_handles_every_type() -> None:
    assert load_subscription("examples.acme_crm.handlers:crm") is crm
    assert crm.handled_types == set(EVENT_TYPES)


async def test_case_092_any_order_ends_in_the_same_contact(acme: Receiver) -> None:
    story = [
        event("page", 1, anonymousId="device-1", name="Home"),
        event("identify", 2, userId="u-1", anonymousId="device-1", traits={"plan": "free", "email": "a@mail.example"}),
        event("identify", 4, userId="u-2", traits={"plan": "team"}),
        event("alias", 3, userId="u-2", previousId="u-1"),
    ]
    for number, order in enumerate(itertools.permutations(story)):
        account = f"customer-{number}"
        await send(acme, *order, key=await acme.mint(account))
        (contact,) = list_contacts(account)
        assert dict(contact.traits) == {"plan": "team", "email": "a@mail.example", "region": "us"}
        assert contact.ids == ("device-1", "u-1", "u-2")
        assert contact.activities == 1


async def test_two_people_on_one_device_stay_two(acme: Receiver) -> None:
    await send(
        acme,
        event("identify", 1, userId="u-1", anonymousId="shared"),
        event("identify", 2, userId="u-2", anonymousId="shared"),
    )
    assert [contact.ids for contact in list_contacts("acme")] == [("shared", "u-1"), ("u-2",)]


async def test_case_093_alias_merges_and_repeating_it_is_harmless(acme: Receiver) -> None:
    alias = event("alias", 3, userId="u-1", previousId="lead-1")
    await send(
        acme,
        event("identify", 1, userId="lead-1", traits={"email": "a@mail.example"}),
        event("identify", 2, userId="u-1", traits={"name": "Karin Huber"}),
        alias,
        {**alias, "messageId": "alias-again"},
    )
    (contact,) = list_contacts("acme")
    assert (contact.ids, contact.name, contact.email) == (("lead-1", "u-1"), "Karin Huber", "a@mail.example")


async def test_case_094_a_null_group_trait_is_cleared_and_an_absent_one_stays(acme: Receiver) -> None:
    first = {"name": "Huber OG", "plan": "team", "total billed": 830}
    await send(
        acme,
        event("group", 5, userId="u-1", groupId="acct_77", traits={"plan": None}),
        event("group", 1, userId="u-1", groupId="acct_77", traits=first),
    )
    assert company_traits("acme", "acct_77") == {"name": "Huber OG", "totalbilled": 830}
    (contact,) = list_contacts("acme")
    assert contact.companies == ("acct_77",)


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"revenue": "39.95"}, {"USD": Decimal("39.95")}),
        ({"revenue": 39.95, "currency": "eur"}, {"EUR": Decimal("39.95")}),
        ({"Revenue": 0}, {"USD": Decimal(0)}),
    ],
)
async def test_case_095_revenue_may_be_text_and_the_currency_is_usd_unless_given(
    acme: Receiver, properties: dict[str, Any], expected: dict[str, Decimal]
) -> None:
    await send(acme, event("track", 1, userId="u-1", event="Order Completed", properties=properties))
    (contact,) = list_contacts("acme")
    assert contact.revenue == expected


@pytest.mark.parametrize("name", ["Order Completed", "order completed", "Completed Order"])
async def test_case_096_order_completed_drives_the_purchase_logic(acme: Receiver, name: str) -> None:
    order = event("track", 1, userId="u-1", event=name, properties={"order_id": "o-1", "revenue": 10})
    again = {**order, "messageId": "the same order in a second message"}
    other = event("track", 2, userId="u-1", event="Order Viewed", properties={"revenue": 99})
    await send(acme, order, again, other)
    (contact,) = list_contacts("acme")
    assert contact.revenue == {"USD": Decimal(10)}
    assert contact.activities == 3


async def test_an_order_without_revenue_is_a_dead_letter_with_a_reason(acme: Receiver) -> None:
    await send(acme, event("track", 1, userId="u-1", event="Order Completed", properties={"revenue": "a lot"}))
    record = await acme.only()
    assert record.state is EventState.DEAD_LETTER
    assert record.last_error == "record_purchase (track Order Completed): an order needs its revenue as a number"


async def test_last_seen_ignores_what_happened_without_the_person(acme: Receiver) -> None:
    await send(
        acme,
        event("track", 1, userId="u-1", event="Signed In"),
        event("track", 9, userId="u-1", event="Invoice Sent", context={"active": False}),
    )
    (contact,) = list_contacts("acme")
    assert contact.last_seen is not None
    assert contact.last_seen.startswith("2026-03-02T10:01")


async def test_case_102_a_delete_erases_the_person_here_and_in_the_log(acme: Receiver, tmp_path: Path) -> None:
    await send(
        acme,
        event("identify", 1, userId="u-1", traits={"email": "gone@mail.example"}),
        event("identify", 1, userId="u-9", traits={"email": "stays@mail.example"}),
        delete("u-1"),
    )
    assert [contact.email for contact in list_contacts("acme")] == ["stays@mail.example"]
    erased = {record.message_id: record.erased for record in await acme.records()}
    assert erased == {
        "identify-u-1-None-None-None-1": True,
        "identify-u-9-None-None-None-1": False,
        "delete-u-1-30": True,
    }


@pytest.mark.parametrize("context", [{"context": [], "integrations": []}, {}])
async def test_case_103_a_delete_may_have_lists_or_no_context(acme: Receiver, context: dict[str, Any]) -> None:
    bare = {"type": "delete", "userId": "u-1", "timestamp": "2026-03-02T10:30:00.000Z", **context}
    await send(acme, event("identify", 1, userId="u-1"), bare)
    assert list_contacts("acme") == []


async def test_case_104_a_delete_for_somebody_unknown_is_accepted(acme: Receiver) -> None:
    await send(acme, delete("nobody"))
    assert (await acme.only()).state is EventState.HANDLED


async def test_case_105_repeated_deletes_are_one_job(acme: Receiver) -> None:
    second_source = await acme.mint("acme")
    await send(acme, event("identify", 1, userId="u-1"), delete("u-1"))
    await send(acme, delete("u-1", 31), key=second_source)
    assert await state_of(acme, "delete-u-1-31") is EventState.REPEATED_DELETE
    async with acme.database.transaction() as session:
        entries = await audit.list_newest(session)
    assert [entry.action for entry in entries].count("person.erase") == 1
    # Somebody who came back and asks again is a deletion of its own.
    await send(acme, event("identify", 40, userId="u-1"), delete("u-1", 45))
    assert await state_of(acme, "delete-u-1-45") is EventState.HANDLED
    assert list_contacts("acme") == []


async def test_case_106_an_older_event_after_the_delete_is_dropped_and_a_newer_one_is_not(acme: Receiver) -> None:
    await send(acme, event("identify", 1, userId="u-1", anonymousId="device-1"), delete("u-1"))
    late = event("identify", 29, userId="u-1", traits={"email": "late@mail.example"})
    late_page = event("page", 20, anonymousId="device-1")
    await send(acme, late, late_page)
    assert list_contacts("acme") == []
    assert await state_of(acme, late["messageId"]) is EventState.SUPPRESSED
    assert await state_of(acme, late_page["messageId"]) is EventState.SUPPRESSED
    assert (await acme.only(message_id=late["messageId"])).erased
    await send(acme, event("identify", 31, userId="u-1", traits={"email": "back@mail.example"}))
    assert [contact.email for contact in list_contacts("acme")] == ["back@mail.example"]


async def test_case_107_a_delete_covers_merged_ids_and_is_audited_without_personal_data(acme: Receiver) -> None:
    await send(
        acme,
        event("identify", 1, userId="lead-1", traits={"email": "a@mail.example"}),
        event("identify", 2, userId="trial-1"),
        event("alias", 3, userId="trial-1", previousId="lead-1"),
        event("alias", 4, userId="u-1", previousId="trial-1"),
        delete("u-1"),
        event("identify", 5, userId="lead-1", traits={"email": "late@mail.example"}),
    )
    assert list_contacts("acme") == []
    assert {record.state for record in await acme.records()} == {EventState.HANDLED, EventState.SUPPRESSED}
    assert all(record.erased for record in await acme.records())
    async with acme.database.transaction() as session:
        (entry,) = [entry for entry in await audit.list_newest(session) if entry.action == "person.erase"]
    assert entry.detail == {"account": "acme", "component": "acme-crm"}
    for personal in ("u-1", "lead-1", "trial-1", "mail.example"):
        assert personal not in f"{entry.subject} {entry.detail} {entry.actor}"


async def test_case_107_a_merge_that_is_still_waiting_is_covered_too(acme: Receiver) -> None:
    await send(acme, event("identify", 1, userId="lead-1", traits={"email": "a@mail.example"}))
    # All of these arrive before any of them is handled, and one alias even after the delete.
    late = event("alias", 4, userId="u-1", previousId="lead-2")
    story = [
        event("identify", 2, userId="lead-2"),
        event("alias", 3, userId="u-1", previousId="lead-1"),
        delete("u-1"),
        late,
    ]
    for payload in story:
        assert (await acme.deliver(payload)).status_code == 202
    await acme.dispatcher.run_due()
    assert list_contacts("acme") == []
    await send(acme, event("identify", 6, userId="lead-2"))
    assert list_contacts("acme") == []
    assert all(record.erased for record in await acme.records())


async def test_case_107_a_merge_that_arrives_after_the_deletion_is_covered_too(acme: Receiver) -> None:
    await send(
        acme,
        event("identify", 1, userId="lead-1", traits={"email": "a@mail.example"}),
        event("identify", 2, userId="u-1"),
        delete("u-1"),
    )
    assert [contact.ids for contact in list_contacts("acme")] == [("lead-1",)]
    await send(acme, event("alias", 3, userId="u-1", previousId="lead-1"))
    assert list_contacts("acme") == []
    await send(acme, event("identify", 29, userId="lead-1"), event("alias", 4, userId="u-1", previousId="u-1"))
    assert list_contacts("acme") == []
    assert all(record.erased for record in await acme.records())
    await send(acme, event("identify", 31, userId="lead-1"))
    assert [contact.ids for contact in list_contacts("acme")] == [("lead-1",)]
