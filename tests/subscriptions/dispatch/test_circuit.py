"""The circuit breaker, driven by whatever may happen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from enable_with_segment.subscriptions.dispatch.circuit import Circuit, CircuitPolicy, CircuitState

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
POLICY = CircuitPolicy(failures=3, first=timedelta(seconds=5), ceiling=timedelta(seconds=30))


class CircuitMachine(RuleBasedStateMachine):
    """Calls begin when they are admitted and end in any order; the clock goes where it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOON
        self.circuit = Circuit()
        self.calls: list[bool] = []  # for each call that runs, whether it is the probe
        self.failed_in_a_row = 0

    @rule(seconds=st.floats(-60, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @precondition(lambda self: self.circuit.admits(self.now))
    @rule()
    def begin(self) -> None:
        half_open = self.circuit.state(self.now) is CircuitState.HALF_OPEN
        self.circuit = self.circuit.started(self.now)
        self.calls.append(half_open)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        self.circuit = self.circuit.succeeded()
        self.calls = [False] * len(self.calls)  # a probe that is still on its way is an ordinary call now
        self.failed_in_a_row = 0
        assert self.circuit.admits(self.now)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        probe = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before = self.circuit
        self.circuit = before.failed(self.now, POLICY, probe=probe)
        self.failed_in_a_row += 1
        if probe or (before.opened_at is None and self.failed_in_a_row >= POLICY.failures):
            assert self.circuit.state(self.now) is CircuitState.OPEN
            assert self.circuit.reopens_at(self.now) > self.now
        elif before.opened_at is not None:
            assert self.circuit == before

    @precondition(lambda self: any(self.calls))
    @rule()
    def abandon_the_probe(self) -> None:
        self.calls.remove(True)
        self.circuit = self.circuit.abandoned()

    @invariant()
    def one_probe_at_a_time(self) -> None:
        assert sum(self.calls) <= 1
        assert self.circuit.probing == any(self.calls)

    @invariant()
    def it_never_stays_open_for_longer_than_the_ceiling(self) -> None:
        assert self.circuit.open_for <= POLICY.ceiling
        assert self.circuit.reopens_at(self.now) <= self.now + POLICY.ceiling
        assert self.circuit.probing or self.circuit.admits(self.circuit.reopens_at(self.now))

    @invariant()
    def it_opens_only_after_failures_in_a_row(self) -> None:
        if self.failed_in_a_row < POLICY.failures:
            assert self.circuit.state(self.now) is CircuitState.CLOSED


TestCircuit = CircuitMachine.TestCase
TestCircuit.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_each_probe_that_fails_doubles_the_wait_up_to_the_ceiling() -> None:
    now, circuit, waits = NOON, Circuit(), list[float]()
    for _ in range(POLICY.failures):
        circuit = circuit.failed(now, POLICY, probe=False)
    for _ in range(5):
        waits.append((circuit.reopens_at(now) - now).total_seconds())
        assert not circuit.admits(now)
        now = circuit.reopens_at(now)
        circuit = circuit.started(now)
        assert not circuit.admits(now)
        circuit = circuit.failed(now, POLICY, probe=True)
    assert waits == [5, 10, 20, 30, 30]
