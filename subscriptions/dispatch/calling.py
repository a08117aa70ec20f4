"""Calling a handler within its time, and reading what it made of each event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from enable_with_segment.components.errors import HandlerError
from enable_with_segment.subscriptions.dispatch.handler_queue import Call, HandlerQueue
from enable_with_segment.subscriptions.dispatch.outcome import Verdict, batch_errors, judge
from enable_with_segment.subscriptions.observer import Observer

logger = logging.getLogger(__name__)


async def call_handler(queue: HandlerQueue, call: Call, *, seconds: float, observer: Observer) -> list[Verdict]:
    """Call a queue's handler with the events of a call; returns a verdict for each of them, in order.

    Raises:
        asyncio.CancelledError: this task was cancelled. Whatever else the handler raises is a verdict.
    """
    handler, events = queue.handler, [attempt.event for attempt in call.attempts]
    first = call.attempts[0]
    started = observer.clock()
    if handler.batch is None:
        work = handler.call(events[0], first.install, first.claimed.settings)
    else:
        work = handler.call_batch(events, first.install, first.claimed.settings)
    answer, error = await _guarded(queue, work, seconds)
    errors: list[BaseException | None] = [error] * len(events)
    if error is None and handler.batch is not None:
        try:
            errors = batch_errors(answer, events)
        except Exception as unreadable:  # the answer's own methods failed
            errors = [unreadable] * len(events)
    verdicts = [judge(handler.key, failure) for failure in errors]
    for attempt, verdict in zip(call.attempts, verdicts, strict=True):
        observer.handled(handler.key, attempt.claimed, attempt.event, verdict.state, started=started)
    return verdicts


async def _guarded(
    queue: HandlerQueue, work: Coroutine[Any, Any, object], seconds: float
) -> tuple[object, BaseException | None]:
    """Await a handler within its time. Everything that it raises is a result; only our own cancellation passes."""
    try:
        async with asyncio.timeout(seconds):
            return await work, None
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return None, RuntimeError(f"the handler was cancelled from inside: {error}")
    except HandlerError as error:
        return None, error
    except SystemExit as error:
        logger.warning("Handler %s of component %s called sys.exit", queue.handler.key, queue.component)
        return None, RuntimeError(f"the handler called sys.exit({error.code!r})")
    except BaseException as error:  # KeyboardInterrupt, GeneratorExit, the panics of extension modules: WH-21
        logger.warning("Handler %s of component %s failed", queue.handler.key, queue.component, exc_info=error)
        return None, error
