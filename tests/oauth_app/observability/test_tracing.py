"""Traces: with OpenTelemetry, spans of one event share a trace; without it, a clear sentence."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import Event, InvalidEventPayload, Subscription
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.oauth_app.observability.tracing import Traces, trace_id_of
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from tests.subscriptions.receiver import open_receiver


def test_a_trace_is_the_events_own() -> None:
    ids = {
        trace_id_of("ins_1", "key_1", "m-1", b"{}"),
        trace_id_of("ins_2", "key_1", "m-1", b"{}"),
        trace_id_of(None, "key_1", "m-1", b"{}"),
        trace_id_of("ins_1", "key_1", "m-2", b"{}"),
        trace_id_of("ins_1", "key_1", None, b"{}"),
        trace_id_of("ins_1", "key_1", None, b"{1}"),
    }
    assert len(ids) == 6
    assert all(0 < trace_id < 2**128 for trace_id in ids)
    assert trace_id_of("ins_1", "key_1", "m-1", b"{}") == trace_id_of("ins_1", "key_2", "m-1", b"other")


def _is_installed() -> bool:
    if importlib.util.find_spec("opentelemetry") is None:
        return False
    return importlib.util.find_spec("opentelemetry.sdk") is not None


async def test_receive_and_handle_are_one_trace_or_a_clear_sentence(tmp_path: Path, encryption: EncryptionKeys) -> None:
    if not _is_installed():
        with pytest.raises(SettingsInvalid, match=r"extra \[tracing\]"):
            Traces()
        return
    sdk: Any = importlib.import_module("opentelemetry.sdk.trace")
    export: Any = importlib.import_module("opentelemetry.sdk.trace.export")
    memory: Any = importlib.import_module("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    importlib.import_module("opentelemetry.trace").set_tracer_provider(provider)
    crm = Subscription("acme-crm")

    @crm.on("track")
    async def refuse(event: Event) -> None:
        raise InvalidEventPayload("no")

    url = f"sqlite+aiosqlite:///{tmp_path}/control.db"
    async with open_receiver(url, encryption, crm, observer=Traces()) as receiver:
        await receiver.deliver({"type": "track", "event": "Paid", "userId": "u-1", "messageId": "m-1"})
        await receiver.deliver({"type": "track", "event": "Paid", "userId": "u-1"})
        await receiver.dispatcher.run_due()
    spans = exporter.get_finished_spans()
    names: dict[int, list[str]] = {}
    for span in spans:
        names.setdefault(span.context.trace_id, []).append(span.name)
        assert span.end_time >= span.start_time
    assert sorted(map(sorted, names.values())) == [["handle refuse (track)", "receive event"]] * 2
    assert [span.status.status_code.name for span in spans if span.name.startswith("handle")] == ["ERROR", "ERROR"]
    assert "u-1" not in str([dict(span.attributes) for span in spans])
