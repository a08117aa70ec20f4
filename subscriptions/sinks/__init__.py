"""Where events can go without a line of handler code: ``subscription.to(sink)``. Deletions reach every sink."""

from subscriptions.sinks.http import HttpSink
from subscriptions.sinks.json_lines import JsonLinesSink
from subscriptions.sinks.parquet import ParquetSink
from subscriptions.sinks.sink import Sink
from subscriptions.sinks.sql import SqlSink

__all__ = ["HttpSink", "JsonLinesSink", "ParquetSink", "Sink", "SqlSink"]
