"""What Acme CRM does with each type of event.

Events arrive at least once and in any order, so every handler writes in a way that the same event twice, or an older
one late, changes nothing: newer values win, and what happened is stored under its message id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeAlias

from enable_with_segment import (
    Event,
    InstallContext,
    InvalidEventPayload,
    Setting,
    Subscription,
    ValidationError,
)
from examples.acme_crm.contacts import ContactBook

Work: TypeAlias = Callable[[ContactBook], object]

crm = Subscription(
    "acme-crm",
    display_name="Acme CRM",
    settings=[Setting("region", choices=["us", "eu"], default="us", label="Data region")],
)


@crm.on("identify")
async def upsert_contact(event: Event, install: InstallContext, settings: Mapping[str, object]) -> None:
    def save(book: ContactBook) -> None:
        contact = book.contact_of(event.user_id, event.anonymous_id)
        book.set_traits(contact, {**event.traits.raw, "region": settings["region"]}, at=event.timestamp)

    await write(install, save)


@crm.on("track")
@crm.on("page")
@crm.on("screen")
async def record_activity(event: Event, install: InstallContext) -> None:
    def save(book: ContactBook) -> None:
        contact = book.contact_of(event.user_id, event.anonymous_id)
        was_there = event.context.get("active") is not False
        book.add_activity(contact, key_of(event), event.type, event.name, at=event.timestamp, was_there=was_there)

    await write(install, save)


@crm.on("track", event="Order Completed")
@crm.on("track", event="Completed Order")  # its name before version 2 of the e-commerce spec
async def record_purchase(event: Event, install: InstallContext) -> None:
    revenue = event.properties.decimal("revenue")
    if revenue is None:
        raise InvalidEventPayload("an order needs its revenue as a number")
    currency = (event.properties.text("currency") or "USD").upper()
    order = event.properties.text("order_id") or key_of(event)

    def save(book: ContactBook) -> None:
        contact = book.contact_of(event.user_id, event.anonymous_id)
        book.set_purchase(contact, order, revenue, currency, at=event.timestamp)

    await write(install, save)


@crm.on("group")
async def join_company(event: Event, install: InstallContext) -> None:
    group_id = event.group_id
    if group_id is None:
        raise ValidationError("a group event needs a groupId")

    def save(book: ContactBook) -> None:
        contact = book.contact_of(event.user_id, event.anonymous_id)
        book.join_company(contact, group_id, event.traits.raw, at=event.timestamp)

    await write(install, save)


@crm.on("alias")
async def merge_contacts(event: Event, install: InstallContext) -> None:
    if event.user_id is None or event.previous_id is None:
        raise ValidationError("an alias needs a userId and a previousId")
    pair = (event.user_id, event.previous_id)
    await write(install, lambda book: book.merge(*pair))


@crm.on("delete")
async def forget(event: Event, install: InstallContext) -> None:
    """Erase the contact under every id it ever had. Not knowing the person is fine: then there is nothing to erase."""
    await write(install, lambda book: book.forget(event.user_id))


def key_of(event: Event) -> str:
    """What makes an event itself: its message id, or what happened to whom and when."""
    person = event.user_id or event.anonymous_id
    return event.message_id or f"{event.type} {event.name} {person} {event.timestamp.isoformat()}"


async def write(install: InstallContext, work: Work) -> None:
    """Do some work in the account's contact book, in one transaction, outside the event loop."""

    def run() -> None:
        with ContactBook.open(install.account) as book:
            work(book)

    await asyncio.to_thread(run)
