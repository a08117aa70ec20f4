"""One HTTP connection, on which deliveries need not become requests.

To make a request of what arrived, uvicorn builds a scope, a cycle and a task, which costs more than taking a delivery
in costs us. So where it is already known that a delivery is too much, its body passes by here and one prepared answer
is written; and one that arrived in one piece is offered to the webhook as it is. Uvicorn's parser reads the messages
in any case, so where one ends and the next begins is never ours to say.

Whatever is not plainly such a delivery takes the normal way, and is answered there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from enable_with_segment.subscriptions.receiving.endpoint import holds_signed_key
from enable_with_segment.subscriptions.receiving.exchange import Headers, message_body, message_headers
from enable_with_segment.subscriptions.receiving.fast_path import FastPath
from enable_with_segment.subscriptions.receiving.load_shedding import STATUS, LoadShedding
from enable_with_segment.subscriptions.receiving.prepared_answer import PreparedAnswer
from enable_with_segment.subscriptions.receiving.server.idle_timer import IdleTimer
from enable_with_segment.subscriptions.receiving.server.pending_answers import PendingAnswers
from enable_with_segment.subscriptions.receiving.server.request_head import (
    HEAD_SECONDS,
    LARGEST_HEAD_BYTES,
    MOST_FIELDS,
    HeadTooLarge,
    size_of,
    without_upgrade,
)
from enable_with_segment.subscriptions.receiving.server.unread import is_unread

logger = logging.getLogger(__name__)

_DELIVERIES = b"/subscriptions/"
_DELIVERY = re.compile(rb"/subscriptions/{1,9}([\w.-]{0,200})/{0,9}(?:\?[\w.~&=%+-]{0,2000})?")
"""Addresses that need no second look; with a key in the path a delivery is signed, and has limits of its own.

They are short, so that uvicorn can read them even when a request is made of a delivery outside of its parser.
"""
_NOBODY_WAITS = asyncio.Event()
_RETRY_LATER = ((b"retry-after", b"10"),)


class DeliveryProtocol(HttpToolsProtocol):
    """Asks the application's ``load_shedding`` and ``fast_path`` first, where it has them."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._refusal: LoadShedding | None = getattr(self.app, "load_shedding", None)
        self._short_way: FastPath | None = getattr(self.app, "fast_path", None)
        # What is answered here is in no log, under no other root, and not counted by the server.
        if config.access_log or self.root_path or self.limit_concurrency is not None:
            self._refusal = self._short_way = None
        self._refused: str | None = None
        """The component of the delivery that is being refused; after the last answer of a connection it stays."""
        self._passed_bytes = 0
        self._refused_until = 0.0
        self._is_last = False
        self._ends_next = False
        """Whether the server stops, and this connection once what has arrived on it is read."""
        self._owed: PreparedAnswer | None = None
        """The answer to a delivery that was refused, until all that is there has been read."""
        self._offered: tuple[str, Headers] | None = None
        """Component and headers of the delivery that may take the short way, while it is being read."""
        self._body = b""
        self._owed_answers = PendingAnswers.of(self.loop)
        self._idle = IdleTimer(self.loop, self.timeout_keep_alive)
        self._reads_head = False
        self._head_bytes = 0
        """How much of a head came in earlier reads."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._offers_upgrade = False
        self._is_large_read = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection on which nothing ever comes like one that is idle."""
        super().connection_made(transport)
        self._idle.rest(self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Read on; what is still to come of a refused body is waited for with the timer of an idle connection."""
        self._idle.wake()
        self._unset_keepalive_if_required()
        if not self._feed(data):
            return
        if self._offered is not None:
            self._make_request()
        elif self._refused is not None and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_at(self._refused_until, self.timeout_keep_alive_handler)
        if self._ends_next:
            self.shutdown()

    def _feed(self, data: bytes) -> bool:
        """Parse what has come; returns False when the connection ends instead.

        An offer to upgrade stops the parser behind the head, with the body left over. Then a new parser reads the same
        head without the offer, and goes on with the body: where a message ends is said by its framing alone (WH-17).
        """
        rest: bytes | memoryview = data
        self._is_large_read = len(data) > LARGEST_HEAD_BYTES
        try:
            while True:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offer:
                    rest = memoryview(rest)[offer.args[0] :]
                    self._read_again_without_upgrade()
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, HeadTooLarge):
                self._end(431, "The request's head is too large.")
            else:  # a bug of ours, or no memory: never a 4xx, which would lose the event (WH-20)
                self._fail(error.__context__ or error)
            return False
        except httptools.HttpParserError:
            logger.warning("Invalid HTTP request received.")
            self.send_400_response("Invalid HTTP request received.")
            return False
        except Exception as error:
            self._fail(error)
            return False
        return self._head_is_bounded(len(data))

    def _read_again_without_upgrade(self) -> None:
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserInvalidMethodError("CONNECT is not supported")
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self._offers_upgrade = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.parser.feed_data(head)

    def _head_is_bounded(self, received: int) -> bool:
        """Return False once a head that is not complete is too large; one that takes too long is ended by a timer."""
        if not self._reads_head:
            return True
        if self._head_timer is None:  # this read began it
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._head_took_too_long)
            self._head_bytes = size_of(self.url, self.headers)
        else:
            self._head_bytes += received
        if self._head_bytes <= LARGEST_HEAD_BYTES:
            return True
        self._end(431, "The request's head is too large.")
        return False

    def _head_took_too_long(self) -> None:
        self._head_timer = None
        self._end(408, "The request's head did not arrive in time.")

    def _head_ended(self) -> None:
        self._reads_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, as uvicorn does, up to a number."""
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MOST_FIELDS:
            raise HeadTooLarge

    def on_message_begin(self) -> None:
        """Begin to read a message; what a request needs beyond that is made when it becomes one."""
        self._reads_head = True
        self._head_bytes = 0
        self.pay()  # answers come in the order of what they answer
        self._idle.wake()
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        """Decide which way a message takes."""
        may_be_large = self._is_large_read or self._head_timer is not None
        self._head_ended()
        if may_be_large and size_of(self.url, self.headers) > LARGEST_HEAD_BYTES:
            raise HeadTooLarge
        if self.parser.should_upgrade():
            self._offers_upgrade = True
            return
        if self._refused is not None:  # the last answer was given; what came with it is not for us
            return
        refusal = self._refusal
        if self.url.startswith(_DELIVERIES):
            component = self._plain_delivery()
            if component is not None:
                if refusal is not None and refusal.concurrency_limit.near_limit and self._refuse(refusal, component):
                    return
                if self._short_way is not None and self._offer(component):
                    return
            self._expect()
        self._begin_request()

    def on_body(self, body: bytes) -> None:
        """Let a part of a refused body pass by; keep one that may take the short way."""
        if self._offered is not None:
            self._body += body
        elif self._refused is None or self._refusal is None:
            super().on_body(body)
        else:
            self._passed_bytes += len(body)
            if self._passed_bytes > self._refusal.body_bytes:
                self._answer_refused(last=True)

    def on_message_complete(self) -> None:
        """Answer what was refused, now that its sender listens, and hand over what may take the short way."""
        if self._offers_upgrade:
            return
        if self._offered is not None:
            if not self._hand_over():
                self._make_request()
                super().on_message_complete()
        elif self._refused is None:
            super().on_message_complete()
        else:
            self._answer_refused(last=self._is_last)

    def eof_received(self) -> None:
        """Answer a sender who has no more to say, but may still listen."""
        self.pay()
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._idle.stop()
        self._head_ended()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End the connection after the next answer, or now if none is due; wait for no rest of a refused body."""
        self.pay()
        if self._refused is not None:
            self._answer_refused(last=True)
        elif self._has_unread():
            self._ends_next = True
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that is idle, or whose refused body takes too long.

        A sender whose next message is there already would never know whether it was read, so that is answered first.
        """
        if self._refused is not None:
            self._answer_refused(last=True)
        elif self._has_unread():
            self._idle.rest(self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """End a connection on which something came that is no HTTP."""
        self._end(400, msg)

    def _fail(self, error: BaseException) -> None:
        """End a connection after a failure of ours while it was read. Without memory the process ends: it would go on
        to refuse everything, and what it has acknowledged is on disk."""
        if isinstance(error, MemoryError):
            os.write(2, b"out of memory: the process ends\n")
            os._exit(70)
        logger.error("reading a request failed", exc_info=error)
        self._end(503, "We cannot take this right now. Try again.")

    def _end(self, status: int, message: str) -> None:
        """Answer what cannot be read further, and close. A message before it that is complete is answered first."""
        self.pay()
        self._head_ended()
        earlier: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing():
            return
        if earlier is not None and not earlier.response_complete and not getattr(earlier, "more_body", False):
            self.flow.pause_reading()
            earlier.keep_alive = False
            return
        if earlier is None or earlier.response_complete or not getattr(earlier, "response_started", False):
            body = message_body(message)
            headers = [*message_headers(body), *_RETRY_LATER] if status == 503 else message_headers(body)
            answer = PreparedAnswer(status, headers, body)
            self.transport.write(answer.on_the_wire(self.server_state.default_headers, last=True))
        self.transport.close()

    def _has_unread(self) -> bool:
        """Tell whether, while no answer is due, the next message is there or has begun to be."""
        earlier: RequestResponseCycle | None = self.cycle
        if self.transport.is_closing() or not (earlier is None or earlier.response_complete):
            return False
        return is_unread(self.transport)

    def _expect(self) -> None:
        if self._refusal is not None:
            self._refusal.concurrency_limit.expect(self.loop.call_soon)

    def _begin_request(self) -> None:
        self._unset_keepalive_if_required()  # it came in one piece with another one
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers += headers  # that list is in the scope
        super().on_headers_complete()

    def _plain_delivery(self) -> str | None:
        """Return the component of a delivery that may be answered here, ``None`` for whatever takes the normal way.

        What came before it on the connection must be answered first, and its sender must have read enough of that.
        """
        delivery = _DELIVERY.fullmatch(self.url)
        if delivery is None or self.parser.get_method() != b"POST":
            return None
        earlier: RequestResponseCycle | None = self.cycle
        if self.flow.write_paused or (earlier is not None and not earlier.response_complete):
            return None
        return delivery[1].decode()

    def _offer(self, component: str) -> bool:
        """Wait for the body of a delivery that may take the short way, or tell that it is to take the normal one."""
        if self.parser.get_http_version() != "1.1" or not self.parser.should_keep_alive() or self.expect_100_continue:
            return False
        headers = Headers(self.headers)
        if headers.get(b"content-length") is None:  # nothing else keeps a body in one piece
            return False
        self._offered = component, headers
        self._body = b""
        return True

    def _hand_over(self) -> bool:
        if self._offered is None or self._short_way is None:
            return False
        taken = _InHand()
        if not self._short_way.take(*self._offered, self._body, partial(self._answer_taken, taken)):
            return False
        self._offered = None
        self._body = b""
        self.headers = []
        self._unset_keepalive_if_required()  # it came in one piece with another one
        self.cycle = taken  # type: ignore[assignment]  # uvicorn asks no more of it than there is
        return True

    def _make_request(self) -> None:
        """Begin a request with what has been read of a delivery that was to take the short way."""
        body, self._body, self._offered = self._body, b"", None
        self._expect()
        self._begin_request()
        if body:
            super().on_body(body)

    def _refuse(self, refusal: LoadShedding, component: str) -> bool:
        """Begin to refuse a delivery, or tell that it is not to be refused here."""
        headers = Headers(self.headers)
        if not refusal.refuses(headers):
            return False
        if holds_signed_key(headers.all(b"authorization")):
            return False
        self._refused = component
        self._passed_bytes = 0
        self._refused_until = self.loop.time() + refusal.body_seconds
        self._is_last = self.parser.get_http_version() == "1.0" or not self.parser.should_keep_alive()
        length = headers.get(b"content-length")
        is_too_long = length is not None and length.isdigit() and int(length[:20]) > refusal.body_bytes
        if self.expect_100_continue or is_too_long:  # nobody knows whether the body will be sent after the answer
            self._answer_refused(last=True)
        return True

    def _answer_refused(self, *, last: bool) -> None:
        """Refuse: at once where it is the last answer, otherwise once all that is there has been read."""
        component, refusal = self._refused, self._refusal
        if component is None or refusal is None or self.transport.is_closing():
            return
        refusal.answered(component, STATUS)
        if last:
            self._write_answer(refusal.answer, last=True)
        else:
            self._refused = None
            self._owed = refusal.answer
            self.headers = []  # they hold a key; and thousands that are kept until then would be in each other's way
            self._owed_answers.add(self, self.loop)

    def pay(self) -> None:
        """Give the answer that is owed, if one is."""
        if self._owed is not None:
            answer, self._owed = self._owed, None
            self._write_answer(answer, last=False)

    def _answer_taken(self, taken: _InHand, answer: PreparedAnswer) -> None:
        """Answer what was taken; a sender who is gone is told nothing."""
        taken.response_complete = True
        self._write_answer(answer, last=not taken.keep_alive)

    def _write_answer(self, answer: PreparedAnswer, *, last: bool) -> None:
        """Write a whole answer, and go on with the connection or close it."""
        if not self.transport.is_closing():
            self.transport.write(answer.on_the_wire(self.server_state.default_headers, last=last))
            if last:
                self.transport.close()
        if self.pipeline:
            self.on_response_complete()
        else:
            self._wait_for_next()

    def _wait_for_next(self) -> None:
        """Wait for the next message: what uvicorn does after an answer, with a timer that need not be set anew."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._idle.rest(self.timeout_keep_alive_handler)


class _InHand:
    """What stands in for a request of uvicorn's while a delivery that was taken is not answered yet.

    It knows nothing of its connection: then both go, with the key that is in the headers, as soon as that is closed.
    """

    __slots__ = ("disconnected", "keep_alive", "response_complete")
    message_event = _NOBODY_WAITS

    def __init__(self) -> None:
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
