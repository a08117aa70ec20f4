"""Where a store stands between its encryption keys: which are configured, which are in use, what to do next."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control import audit
from enable_with_segment.db.control import heartbeats as running_processes
from enable_with_segment.db.control.ciphertexts import KeyUse, keys_in_use, used_key_ids
from enable_with_segment.db.control.reencryption import REPLACED
from enable_with_segment.db.control.tables import RunningProcess
from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys
from enable_with_segment.db.encryption_rotation import ProcessKeys

_COMMAND = "enable-with-segment encryption-keys"


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """Configured keys beside what is stored, and beside what running processes know.

    ``replaced`` are those that a re-encryption has moved rows away from.
    """

    setting: str
    configured: tuple[str, ...]
    uses: Sequence[KeyUse]
    replaced: Collection[str]
    processes: Sequence[RunningProcess] = field(default=())

    @property
    def known(self) -> list[ProcessKeys]:
        """Which keys each running process knows."""
        return [(process.name, process.key_ids) for process in self.processes]

    @property
    def current(self) -> str:
        """The key that encrypts."""
        return self.configured[0]

    @property
    def in_use(self) -> set[str]:
        """Every key id that a stored ciphertext carries."""
        return used_key_ids(self.uses)

    @property
    def missing(self) -> list[str]:
        """Keys that stored ciphertexts carry and that are not configured."""
        return sorted(self.in_use - set(self.configured))

    @property
    def unused(self) -> list[str]:
        """Configured keys that no ciphertext carries, in their order."""
        return [key_id for key_id in self.configured if key_id not in self.in_use]

    @property
    def unopened(self) -> list[KeyUse]:
        """Where a sample did not open although its key is configured."""
        return [use for use in self.uses if not use.opens and use.key_id not in self.missing]

    @property
    def added(self) -> str | None:
        """A key that waits in the last place to be put to use."""
        last = self.configured[-1]
        is_new = len(self.configured) > 1 and last not in self.in_use and last not in self.replaced
        return last if is_new else None

    @property
    def healthy(self) -> bool:
        """Whether everything stored can be opened, as far as samples tell."""
        return not self.missing and not self.unopened

    def next_step(self) -> str:
        """Return what to do now, in a sentence."""
        if self.missing:
            rows = sum(use.rows for use in self.uses if use.key_id in self.missing)
            return f"Put {', '.join(self.missing)} back into {self.setting}: {rows} stored secrets need it."
        if self.unopened:
            return f"{self.setting} holds another key than the one the store was written with. Configure the right one."
        if self.added is not None:
            unaware = [name for name, key_ids in self.known if self.added not in key_ids]
            if unaware:
                return f"Deploy {self.setting} with '{self.added}' to every process; {len(unaware)} do not know it yet."
            return f"When every process runs with '{self.added}', go on with: {_COMMAND} rotate --stage use"
        if self.in_use - {self.current}:
            return f"When every process encrypts with '{self.current}', go on with: {_COMMAND} reencrypt --verify"
        if len(self.configured) > 1:
            return f"Nothing needs the older keys any more; remove them: {_COMMAND} rotate --stage retire"
        return f"Nothing to do. To replace the key, begin with: {_COMMAND} rotate"


async def key_status(database: Database, keys: EncryptionKeys) -> KeyStatus:
    """Read where the store stands."""
    uses = await keys_in_use(database, keys)
    async with database.transaction() as session:
        replaced = await audit.subjects(session, action=REPLACED)
        processes = await running_processes.live(session, now=utc_now())
    return KeyStatus(keys.setting, keys.key_ids, uses, replaced, processes)
