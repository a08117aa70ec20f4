"""Looking inside the sandbox under `/_sandbox/`: what exists, what arrived, what was delivered."""

from __future__ import annotations

from dataclasses import asdict

from starlette.requests import Request
from starlette.routing import Route

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import CatalogDestination
from enable_with_segment.segment_sandbox.config_api.destinations import setting_value
from enable_with_segment.segment_sandbox.control.http import Answer, ControlError, route
from enable_with_segment.segment_sandbox.delivery.courier import Courier
from enable_with_segment.segment_sandbox.delivery.deliveries import Deliveries
from enable_with_segment.segment_sandbox.state import State
from enable_with_segment.segment_sandbox.tracking.ingestion import Ingestion
from enable_with_segment.segment_sandbox.transcript import MASK
from enable_with_segment.segment_sandbox.world import App, Destination, Install, Source, Workspace

LONGEST_WAIT_SECONDS = 60.0
DEFAULT_WAIT_SECONDS = 10.0


class ControlState:
    """Handlers that only look."""

    def __init__(self, state: State, deliveries: Deliveries, courier: Courier, ingestion: Ingestion) -> None:
        self._state = state
        self._deliveries = deliveries
        self._courier = courier
        self._ingestion = ingestion

    def routes(self) -> list[Route]:
        return [
            route("GET", "state", self.state),
            route("GET", "deliveries", self.deliveries),
            route("GET", "events", self.events),
            route("GET", "idle", self.idle),
        ]

    async def state(self, request: Request) -> Answer:
        """Everything that exists; secrets are masked unless `?secrets=1`."""
        world = self._state.world
        secrets = request.query_params.get("secrets") == "1"
        return {
            "profile": self._state.profile,
            "now": timestamp(self._state.now()),
            "users": [asdict(user) for user in world.users.values()],
            "workspaces": [self._workspace(workspace) for workspace in world.workspaces.values()],
            "catalog": [asdict(entry) for entry in world.catalog.values()],
            "apps": [_app(app, secrets=secrets) for app in world.apps.values()],
            "installs": [self._install(install, secrets=secrets) for install in world.installs.values()],
            "destinations": [self._destination(d, secrets=secrets) for d in world.destinations.values()],
            "ingestion": {"accepted": self._ingestion.accepted, "dropped": self._ingestion.dropped},
            "deliveries": self._deliveries.summary(),
        }

    async def deliveries(self, request: Request) -> Answer:
        """The log of deliveries; `?source=`, `?destination=`, `?message_id=` and `?state=` select."""
        query = request.query_params
        found = self._deliveries.find(
            source=query.get("source"),
            destination=query.get("destination"),
            message_id=query.get("message_id"),
            state=query.get("state"),
        )
        deliveries = [delivery.as_dict() for delivery in found]
        return {"count": len(deliveries), "deliveries": deliveries}

    async def events(self, request: Request) -> Answer:
        """What ingestion accepted and what it dropped; `?source=` selects."""
        source, ingestion = request.query_params.get("source"), self._ingestion
        accepted = [e.event for e in ingestion.archive if source in {None, e.source}]
        dropped = [drop.as_dict() for drop in ingestion.drops if source in {None, drop.source}]
        return {"accepted": accepted, "dropped": dropped}

    async def idle(self, request: Request) -> Answer:
        """Wait until no delivery is pending, at most `?timeout_seconds=`; `?retries=0` leaves out waiting retries."""
        query = request.query_params
        try:
            timeout = float(query.get("timeout_seconds", DEFAULT_WAIT_SECONDS))
        except ValueError as error:
            raise ControlError("timeout_seconds is not a number.") from error
        bounded = max(0.0, min(timeout, LONGEST_WAIT_SECONDS))
        idle = await self._courier.settled(bounded, retries=query.get("retries") != "0")
        return {"idle": idle, **self._deliveries.summary()}

    def _workspace(self, workspace: Workspace) -> Answer:
        return {
            "name": workspace.name,
            "id": workspace.id,
            "display_name": workspace.display_name,
            "owners": sorted(workspace.owners),
            "members": sorted(workspace.members),
            "suppressed_user_ids": sorted(workspace.suppressed_user_ids),
            "sources": [_source(source) for source in self._state.world.sources_of(workspace.name)],
        }

    def _install(self, install: Install, *, secrets: bool) -> Answer:
        state = self._state
        tokens = [
            {
                "access_token": token.value if secrets else MASK,
                "expires_at": timestamp(token.expires_at) if token.expires_at else None,
                "live": state.world.live_token(token.value, state.now()) is not None,
            }
            for token in state.world.tokens.values()
            if token.install == install.name
        ]
        return {**asdict(install), "created_at": timestamp(install.created_at), "tokens": tokens}

    def _destination(self, destination: Destination, *, secrets: bool) -> Answer:
        entry = self._state.world.catalog[destination.slug]
        return {
            "name": destination.name,
            "source": destination.source,
            "slug": destination.slug,
            "display_name": entry.display_name,
            "endpoint": entry.endpoint,
            "enabled": destination.enabled,
            "connection_mode": destination.connection_mode,
            "config": _config(destination, entry, secrets=secrets),
            "dropped_types": sorted(destination.dropped_types),
            "dropped_events": sorted(destination.dropped_events),
        }


def _source(source: Source) -> Answer:
    return {
        "name": source.name,
        "display_name": source.display_name,
        "project_id": source.project_id,
        "write_keys": source.write_keys,
    }


def _app(app: App, *, secrets: bool) -> Answer:
    seed = asdict(app.seed)
    return {**seed, "client_secret": seed["client_secret"] if secrets else MASK, "name": app.name}


def _config(destination: Destination, entry: CatalogDestination, *, secrets: bool) -> Answer:
    """The settings by key; a sensitive one shows itself only when asked, and whether it is set always."""
    values = {setting.key: (setting, setting_value(setting, destination)) for setting in entry.settings}
    return {
        key: MASK if setting.sensitive and value and not secrets else value for key, (setting, value) in values.items()
    }
