"""The partner's side of a component: its settings and handlers, declared in one object."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from enable_with_segment.components.errors import HandlerInvalid, SubscriptionNotLoaded
from enable_with_segment.components.event import EVENT_TYPES, Event
from enable_with_segment.components.handler import Handler, HandlerFunction, make_handler
from enable_with_segment.components.install_function import InstallFunction, make_install_function
from enable_with_segment.components.setting import Setting
from enable_with_segment.components.sink import Sink

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_Function = TypeVar("_Function", bound=HandlerFunction)


class Subscription:
    """A component that receives events, and the handlers they go to.

    ::

        crm = Subscription("acme-crm", display_name="Acme CRM", settings=[Setting("region", choices=["us", "eu"])])

        @crm.on("track", event="Order Completed")
        async def record_order(event, install): ...

    Every matching handler gets the event. Delivery is *at least once*: write handlers so that the same event twice
    does no harm.

    Args:
        name: the last part of the endpoint's path, ``/subscriptions/{name}``; lower case, digits and ``-``.
        display_name: what Segment's catalog calls the destination; needed to recognise replays.
        settings: the destination's custom settings.

    Raises:
        ValueError: the name cannot stand in a path, or two settings share a key.
    """

    def __init__(self, name: str, display_name: str | None = None, *, settings: Sequence[Setting] = ()) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"'{name}' cannot be a component's name; use a-z, 0-9 and '-', at most 63 characters")
        if len({setting.key for setting in settings}) < len(settings):
            raise ValueError(f"component '{name}' declares a setting twice")
        self.name = name
        self.display_name = display_name
        self.settings: tuple[Setting, ...] = tuple(settings)
        self._handlers: list[Handler] = []
        self._handlers_of_type: dict[str, tuple[Handler, ...]] = {}
        self._sinks: list[Sink] = []
        self._install_functions: list[InstallFunction] = []

    def on(
        self,
        type: str,
        *,
        event: str | None = None,
        batch: int | None = None,
        ordered: bool = False,
    ) -> Callable[[_Function], _Function]:
        """Register an async function for a type of event; the function itself is returned unchanged.

        The function names the arguments it wants: ``event`` (an :class:`Event`), ``install`` (an
        :class:`InstallContext`) and ``settings`` (a mapping of the declared settings). With ``batch=N`` it asks for
        ``events`` instead, up to N events of one install, and may answer per item: return a list with ``None`` or
        an exception for each event, or a mapping of message ids to exceptions. Raising speaks for all of them.

        Args:
            type: ``identify``, ``track``, ``page``, ``screen``, ``group``, ``alias`` or ``delete``.
            event: only track events of this name, in any case.
            batch: the greatest number of events in one call.
            ordered: hand over the events of one person (``userId``, else ``anonymousId``) of an install one at a
                time and in the order in which they were received. While one of them has to be tried again, the
                person's later ones wait; when it is given up, they go on. Segment itself promises no order
                (contract 5.7), so compare ``event.timestamp`` all the same. Not together with ``batch``.

        Raises:
            HandlerInvalid: an unknown type or argument name, or a function that is not async.
        """

        def register(function: _Function) -> _Function:
            self._add(make_handler(function, type=type, event=event, batch=batch, ordered=ordered))
            return function

        return register

    def to(self, sink: Sink, *, types: Sequence[str] = EVENT_TYPES) -> None:
        """Send events to a sink, such as ``JsonLinesSink``; deletions reach it whatever the types.

        ::

            crm.to(JsonLinesSink("/data/events"), types=["track", "page"])

        Args:
            types: the types of event it gets, all of them when left out.

        Raises:
            HandlerInvalid: an unknown type, or a second sink of the same name.
        """
        for type in dict.fromkeys([*types, *getattr(sink, "always", ()), "delete"]):
            function = sink.erase if type == "delete" else sink.write
            batch, name = sink.batch, sink.name
            self._add(make_handler(function, type=type, event=None, batch=batch, name=name, of_sink=True))
        self._sinks.append(sink)

    def _add(self, handler: Handler) -> None:
        if any(other.key == handler.key for other in self._handlers):
            raise HandlerInvalid(f"component '{self.name}' has a handler '{handler.key}' already")
        self._handlers.append(handler)
        self._handlers_of_type[handler.type] = (*self._handlers_of_type.get(handler.type, ()), handler)

    def on_install(self, *changes: str) -> Callable[[_Function], _Function]:
        """Register an async function for changes in how an install's connection stands; it is returned unchanged.

        ::

            @crm.on_install("failing", "revoked")
            async def tell_the_account_manager(install, change, reason): ...

        The function names the arguments it wants: ``install`` (an :class:`InstallContext`), ``change`` (one of the
        words below), ``reason`` (a word such as ``install_removed``, or ``None``) and ``detail`` (the sentence that
        the customer sees, or ``None``). It is called *at least once* for each change, and again later if it raises.

        Args:
            changes: of ``connected``, ``failing``, ``recovered``, ``drifted`` and ``revoked``; none means all.

        Raises:
            HandlerInvalid: an unknown change or argument name, or a function that is not async.
        """

        def register(function: _Function) -> _Function:
            self._install_functions.append(make_install_function(function, changes=changes))
            return function

        return register

    @property
    def install_functions(self) -> tuple[InstallFunction, ...]:
        """The functions that are told about installs, in the order of registration."""
        return tuple(self._install_functions)

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """Every handler, in the order of registration."""
        return tuple(self._handlers)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Every sink; whoever runs the handlers closes them at the end."""
        return tuple(self._sinks)

    @property
    def handled_types(self) -> Collection[str]:
        """The types of event that at least one handler exists for; others are answered 501 (contract 5.5)."""
        return self._handlers_of_type.keys()

    def handlers_of(self, event: Event) -> tuple[Handler, ...]:
        """Return the handlers this event goes to."""
        of_type = self._handlers_of_type.get(event.type, ())
        if not any(handler.event for handler in of_type):
            return of_type
        return tuple(handler for handler in of_type if handler.wants(event))

    def __repr__(self) -> str:
        return f"Subscription({self.name!r}, {len(self._handlers)} handlers)"


def load_subscription(reference: str) -> Subscription:
    """Import the :class:`Subscription` that ``module:attribute`` names, such as ``acme.handlers:crm``.

    Raises:
        SubscriptionNotLoaded: the text has another form, the module or attribute does not exist, or it is no
            ``Subscription``. Errors inside the module, ``HandlerInvalid`` among them, come through as they are.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise SubscriptionNotLoaded(
            f"HANDLERS is '{reference}'; write it as module:attribute, such as acme.handlers:crm"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise SubscriptionNotLoaded(f"HANDLERS is '{reference}', but there is no module '{error.name}'") from None
    found = getattr(module, attribute, None)
    if not isinstance(found, Subscription):
        problem = "has no such attribute" if found is None else f"is a {type(found).__name__}, not a Subscription"
        where = f"module '{module_name}'" if found is None else f"'{attribute}'"
        raise SubscriptionNotLoaded(f"HANDLERS is '{reference}', but {where} {problem}")
    return found
