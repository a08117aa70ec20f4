"""Components that receive customer data, and the API that the partner's developer writes handlers with.

What a handler file needs is exported here; everything else is imported from the module that owns it.
"""

from subscriptions.errors import (
    EventNotSupported,
    HandlerError,
    HandlerInvalid,
    InvalidEventPayload,
    RetryError,
    SubscriptionError,
    SubscriptionNotLoaded,
    ValidationError,
)
from subscriptions.event import Event
from subscriptions.fields import Fields
from subscriptions.install_context import InstallContext
from subscriptions.setting import Setting
from subscriptions.subscription import Subscription, load_subscription

__all__ = [
    "Event",
    "EventNotSupported",
    "Fields",
    "HandlerError",
    "HandlerInvalid",
    "InstallContext",
    "InvalidEventPayload",
    "RetryError",
    "Setting",
    "Subscription",
    "SubscriptionError",
    "SubscriptionNotLoaded",
    "ValidationError",
    "load_subscription",
]
