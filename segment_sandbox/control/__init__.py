"""JSON control of the sandbox under /_sandbox/: state, faults, the clock, seeds."""
