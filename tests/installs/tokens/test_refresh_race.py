"""TK-7 to TK-9 over real processes. ``REFRESH_RACE_ROUNDS=100`` makes each race that long."""

from __future__ import annotations

import os

from enable_with_segment.db.database import Database
from enable_with_segment.db.encryption import EncryptionKeys, generate_encryption_key
from enable_with_segment.installs.api_keys import ApiKeys
from tests.installs.provisioning.stage import Stage
from tests.installs.tokens.race import Round, racing


def _rounds(usual: int) -> int:
    return int(os.environ.get("REFRESH_RACE_ROUNDS", usual))


async def test_tk_07_tk_08_tk_09_twenty_tasks_in_four_processes(database: Database, api_keys: ApiKeys) -> None:
    keys = generate_encryption_key()
    stage = Stage(database, EncryptionKeys.parse(keys), api_keys)
    install_id = await stage.install()
    install_name = (await stage.row(install_id)).install_name
    try:
        async with racing(stage.sandbox, database, keys, install_id=install_id, install_name=install_name) as race:
            together = [await race.all_at_once() for _ in range(_rounds(3))]
            cut_off = [await race.cut_off() for _ in range(_rounds(1))]
            frozen = [await race.frozen_holder() for _ in range(_rounds(1))]
    finally:
        await stage.close()
    assert _mints(together) == {1}
    assert _mints(cut_off) == {2}, "one refresh whose answer was lost, and one further"
    assert _mints(frozen) == {2}, "the frozen holder's, and that of whoever took over"
    assert [a_round.not_live for a_round in [*together, *cut_off, *frozen] if a_round.not_live] == []


def _mints(rounds: list[Round]) -> set[int]:
    return {a_round.mints for a_round in rounds}
