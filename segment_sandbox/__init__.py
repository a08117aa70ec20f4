"""A Segment you can run: OAuth, consent, Config API, ingestion and delivery, in one process and in memory."""

from enable_with_segment.segment_sandbox.config import (
    AppSeed,
    CatalogDestination,
    ConfigError,
    SandboxConfig,
    SettingSpec,
    SourceSeed,
    User,
    WorkspaceSeed,
    acme_app,
    acme_crm,
)
from enable_with_segment.segment_sandbox.faults import Fault
from enable_with_segment.segment_sandbox.sandbox import Sandbox, create_app
from enable_with_segment.segment_sandbox.switches import PROFILES, Switches, UnknownSwitch

__all__ = [
    "PROFILES",
    "AppSeed",
    "CatalogDestination",
    "ConfigError",
    "Fault",
    "Sandbox",
    "SandboxConfig",
    "SettingSpec",
    "SourceSeed",
    "Switches",
    "UnknownSwitch",
    "User",
    "WorkspaceSeed",
    "acme_app",
    "acme_crm",
    "create_app",
]
