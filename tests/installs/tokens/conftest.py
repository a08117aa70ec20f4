"""A stage on both engines, for tests about tokens."""

from __future__ import annotations

from tests.installs.provisioning.conftest import stage

__all__ = ["stage"]
