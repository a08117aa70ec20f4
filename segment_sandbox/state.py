"""Everything that a sandbox knows at one moment. Its parts are passed this object, and a reset happens in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from enable_with_segment.segment_sandbox.clock import SandboxClock
from enable_with_segment.segment_sandbox.config import SandboxConfig
from enable_with_segment.segment_sandbox.faults import Faults
from enable_with_segment.segment_sandbox.identifiers import Identifiers
from enable_with_segment.segment_sandbox.switches import Switches, profile
from enable_with_segment.segment_sandbox.transcript import Transcript
from enable_with_segment.segment_sandbox.world import World


@dataclass(slots=True)
class State:
    """The sandbox's parts that do no I/O, wired together."""

    config: SandboxConfig
    profile: str = field(init=False)
    switches: Switches = field(init=False)
    clock: SandboxClock = field(init=False)
    identifiers: Identifiers = field(init=False)
    world: World = field(init=False)
    faults: Faults = field(init=False)
    transcript: Transcript = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from the configuration."""
        self.profile = self.config.profile
        self.switches = self.config.starting_switches()
        self.clock = SandboxClock(self.config.time_scale, self.config.start)
        self.identifiers = Identifiers(self.config.seed)
        self.world = World(self.config, self.identifiers, self.now())
        self.faults = Faults()
        self.transcript = Transcript(self.config.max_records)

    def now(self) -> datetime:
        return self.clock.now()

    def set_profile(self, name: str) -> None:
        """Set every switch as this profile has it. Raises `UnknownSwitch`."""
        self.switches = profile(name)
        self.profile = name

    def set_switches(self, values: dict[str, object]) -> None:
        """Change some switches; the profile's name then says so. Raises `UnknownSwitch`."""
        self.switches = self.switches.changed(values)
        base = self.profile.removesuffix(" (changed)")
        self.profile = base if self.switches == profile(base) else f"{base} (changed)"
