"""One run of provisioning: look, decide, act, look again (contract 2.10, 3.3)."""

from __future__ import annotations

import logging

from enable_with_segment.installs.api_keys import ApiKeys
from enable_with_segment.installs.provisioning.calls import InstallCalls
from enable_with_segment.installs.provisioning.decision import (
    Progress,
    Seen,
    Step,
    held_key,
    missing_settings,
    next_step,
    settings_to_create,
)
from enable_with_segment.installs.provisioning.plan import Plan, ProvisioningEnded
from enable_with_segment.installs.provisioning.records import ProvisioningRecords
from enable_with_segment.installs.reasons import Reason
from enable_with_segment.segment_api.destination import DestinationRequest
from enable_with_segment.segment_api.errors import AlreadyExists, InternalFailure, NotFound

logger = logging.getLogger(__name__)


class ProvisioningRun:
    """Brings one planned destination about. Made for one use."""

    def __init__(self, plan: Plan, calls: InstallCalls, records: ProvisioningRecords, api_keys: ApiKeys) -> None:
        self._plan = plan
        self._calls = calls
        self._records = records
        self._api_keys = api_keys

    async def run(self, *, overwrite: bool) -> None:
        """Go on until the destination is as planned, and record that.

        Raises:
            ProvisioningEnded: it cannot be, or the customer has to be asked.
            SegmentError, AccessLost: as the calls raise them.
        """
        progress, known = Progress(), True
        try:
            seen = await self._look()
        except InternalFailure:
            seen, known = None, False  # may mean "absent" (contract 3.7); a create will tell
        while True:
            plan = self._plan
            step = next_step(
                seen,
                progress,
                ours=plan.ours,
                verified=plan.verified,
                established=plan.established,
                overwrite=overwrite,
            )
            if step in {Step.CREATE, Step.UPDATE} and known and not plan.ours:
                self._plan = await self._records.note_ours(plan)
            match step:
                case Step.CREATE:
                    written = await self._create()
                    progress = Progress(progress.creates + 1, progress.updates, written)
                case Step.UPDATE:
                    written = await self._update()
                    progress = Progress(progress.creates, progress.updates + 1, written)
                case Step.CONNECTED if seen is not None:
                    return await self._records.connected(self._plan, seen, changed=progress != Progress())
                case Step.ASK:
                    raise ProvisioningEnded(Reason.KEY_DIFFERS)
                case Step.CREATE_FAILED:
                    raise ProvisioningEnded(Reason.DESTINATION_CREATE_FAILED)
                case _:
                    raise ProvisioningEnded(Reason.DESTINATION_UPDATE_FAILED)
            seen, known = await self._look(), True

    async def _look(self) -> Seen | None:
        destination = await self._calls.get(self._plan.name)
        if destination is None:
            return None
        shown = destination.api_key
        is_ours = False
        if shown is not None and shown != self._plan.api_key:
            holder = (await self._api_keys.look_up(shown)).holder
            is_ours = holder is not None and holder.account == self._plan.account
        return Seen(
            enabled=destination.enabled,
            key=held_key(destination, self._plan.api_key, is_ours=is_ours),
            settled=all(destination.settings.get(key) == value for key, value in self._plan.pending.items()),
        )

    async def _create(self) -> bool:
        """Create the destination; tells whether Segment confirmed it."""
        plan = self._plan
        wanted = {**plan.defaults, **plan.chosen}
        catalog = await self._calls.catalog(plan.slug) if wanted else None
        settings = settings_to_create(plan.defaults, plan.chosen, catalog)
        if len(settings) < len(wanted):
            logger.warning("left out settings that %s does not take: %s", plan.slug, sorted(wanted.keys() - settings))
        missing = missing_settings(settings, catalog)
        if missing:
            raise ProvisioningEnded(Reason.SETTINGS_MISSING, ", ".join(missing))
        try:
            await self._calls.create(
                DestinationRequest(plan.name, enabled=True, api_key=plan.api_key, settings=settings)
            )
        except (AlreadyExists, InternalFailure) as ambiguous:
            logger.info("creating %s: %s; looking what is there", plan.name, ambiguous)
            return False
        except NotFound:
            raise ProvisioningEnded(Reason.SOURCE_GONE) from None
        return True

    async def _update(self) -> bool:
        """Update the destination; tells whether Segment confirmed it. ``False`` when it is gone meanwhile."""
        plan = self._plan
        try:
            await self._calls.update(
                DestinationRequest(plan.name, enabled=True, api_key=plan.api_key, settings=plan.pending)
            )
        except NotFound:
            return False
        return True
