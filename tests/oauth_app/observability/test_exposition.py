"""Prometheus' text format."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from enable_with_segment.oauth_app.observability.exposition import Family, Histogram, Sample, render

_LINE = re.compile(r'[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\["\\n])*"(,[a-z]+="(?:[^"\\\n]|\\["\\n])*")*\})? \S+')


def test_a_page_of_every_kind() -> None:
    histogram = Histogram([0.1, 1.0])
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.observe(value)
    families = [
        Family("age_seconds", "gauge", "How old.\nVery.", [Sample(1.5)]),
        Family("calls_total", "counter", "Calls.", [Sample(3, {"path": 'a"b\\c\nd'}), Sample(math.inf)]),
        Family("empty_total", "counter", "Nothing yet.", []),
        Family("took_seconds", "histogram", "Time.", histogram.samples({"handler": "x"})),
    ]
    assert render(families) == (
        "# HELP age_seconds How old.\\nVery.\n"
        "# TYPE age_seconds gauge\n"
        "age_seconds 1.5\n"
        "# HELP calls_total Calls.\n"
        "# TYPE calls_total counter\n"
        'calls_total{path="a\\"b\\\\c\\nd"} 3\n'
        "calls_total +Inf\n"
        "# HELP empty_total Nothing yet.\n"
        "# TYPE empty_total counter\n"
        "# HELP took_seconds Time.\n"
        "# TYPE took_seconds histogram\n"
        'took_seconds_bucket{handler="x",le="0.1"} 2\n'
        'took_seconds_bucket{handler="x",le="1"} 3\n'
        'took_seconds_bucket{handler="x",le="+Inf"} 4\n'
        'took_seconds_sum{handler="x"} 7.65\n'
        'took_seconds_count{handler="x"} 4\n'
    )


@given(st.text(), st.floats(allow_nan=False))
def test_any_label_and_value_is_one_line_that_can_be_read(label: str, value: float) -> None:
    text = render([Family("x_total", "counter", "X.", [Sample(value, {"l": label})])])
    *_, line, end = text.split("\n")
    assert end == ""
    assert _LINE.fullmatch(line)
    written = float(line.rpartition(" ")[2].replace("Inf", "inf"))
    assert written == value


@given(st.lists(st.floats(min_value=0, max_value=10)))
def test_buckets_count_everything_up_to_their_bound(values: list[float]) -> None:
    histogram = Histogram([1.0, 2.0, 5.0])
    for value in values:
        histogram.observe(value)
    found = {sample.labels.get("le", sample.suffix): sample.value for sample in histogram.samples()}
    for bound in (1, 2, 5):
        assert found[str(bound)] == sum(value <= bound for value in values)
    assert found["+Inf"] == found["_count"] == len(values)
