"""``encryption-keys``: the keys that stored secrets are encrypted with, and how they are replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from enable_with_segment.db.clock import utc_now
from enable_with_segment.db.control.ciphertexts import count_all, count_not_of_key
from enable_with_segment.db.control.key_status import KeyStatus, key_status
from enable_with_segment.db.control.reencryption import Pace, Reencryption, ReencryptionReport
from enable_with_segment.db.encryption import format_key_entries
from enable_with_segment.db.encryption_rotation import (
    RotationRefused,
    RotationStage,
    add_key,
    check_encrypts,
    check_known,
    retire_old_keys,
    use_newest_key,
)
from enable_with_segment.oauth_app.cli.output import (
    FAILED,
    AsJson,
    Reason,
    print_json,
    print_table,
    progress_bar,
    run,
    say,
    settings_or_exit,
    stop,
)
from enable_with_segment.oauth_app.operators.actions import Act, note
from enable_with_segment.oauth_app.runtime.environment import SettingsInvalid
from enable_with_segment.oauth_app.runtime.key_provider import encryption_keys, key_provider, new_configured_key
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import open_control_store

_NEXT = {
    RotationStage.ADD: "Step 1 of 4: the new key, last in the list, only decrypts. Deploy the value to every "
    "process; then run this again there with: --stage use",
    RotationStage.USE: "Step 2 of 4: the new key now comes first and encrypts. Deploy the value to every "
    "process; then run: enable-with-segment encryption-keys reencrypt --verify",
    RotationStage.RETIRE: "Step 4 of 4: nothing stored needs the older keys any more. Deploy the value, and "
    "keep the older keys only as long as you keep backups of the database from before.",
}


def generate() -> None:
    """Print a new key for ENCRYPTION_KEYS; with ENCRYPTION_KMS_URL, wrapped by the key service.

    Example: export ENCRYPTION_KEYS="$(enable-with-segment encryption-keys generate)"
    """
    typer.echo(run(_generate(settings_or_exit())))


def status(as_json: AsJson = False) -> None:
    """Show which keys are configured, and which keys the stored secrets need. Exit status 1 if one is missing.

    Example: enable-with-segment encryption-keys status --json
    """
    told = run(_status(settings_or_exit()))
    if as_json:
        print_json(
            {
                "setting": told.setting,
                "current": told.current,
                "configured": told.configured,
                "in_use": told.uses,
                "missing": told.missing,
                "unused": told.unused,
                "processes": [
                    {"process": process.name, "keys": process.key_ids, "seen_at": process.seen_at}
                    for process in told.processes
                ],
                "healthy": told.healthy,
                "next": told.next_step(),
            }
        )
    else:
        say(f"{told.setting}: {', '.join(told.configured)}; '{told.current}' encrypts.")
        print_table(
            ["table", "column", "key", "rows", "opens"],
            [(use.table, use.column, use.key_id, use.rows, "yes" if use.opens else "NO") for use in told.uses],
            empty="Nothing is encrypted yet.",
        )
        print_table(
            ["running process", "keys it knows", "seen"],
            [(process.name, ", ".join(process.key_ids), process.seen_at) for process in told.processes],
            empty="No process of the service is running.",
        )
        say(told.next_step())
    if not told.healthy:
        raise typer.Exit(FAILED)


def rotate(
    stage: Annotated[RotationStage, typer.Option(help="add, then use, then retire.")] = RotationStage.ADD,
    as_json: AsJson = False,
) -> None:
    """Print the next value of ENCRYPTION_KEYS. Each stage keeps every running process able to decrypt.

    Four steps: add a key and deploy; use it and deploy; reencrypt; retire the old keys and deploy. Nothing is changed
    here. A step is refused while a running process is not ready for it.

    Example: enable-with-segment encryption-keys rotate --stage use
    """
    settings = settings_or_exit()
    try:
        keys = run(_rotate(settings, stage))
    except RotationRefused as refused:
        stop([str(refused)], FAILED)
    value = format_key_entries(keys)
    setting = key_provider(settings).setting
    if as_json:
        print_json({"stage": stage, "setting": setting, "keys": list(keys), "value": value, "next": _NEXT[stage]})
        return
    typer.echo(value.replace(",", "\n") if settings.encryption_keys_file else value)
    say(f"For {setting}. {_NEXT[stage]}", error=True)


def reencrypt(
    verify: Annotated[bool, typer.Option("--verify", help="Open every secret with the current key alone.")] = False,
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows in one short transaction.")] = 200,
    rate: Annotated[float | None, typer.Option(min=1, help="At most this many rows a second.")] = None,
    reason: Reason = None,
    as_json: AsJson = False,
) -> None:
    """Encrypt every stored secret anew, with the first key, while the service runs. It can be stopped and repeated.

    Step 3 of 4 when a key is replaced; what comes next is said at the end.

    Example: enable-with-segment encryption-keys reencrypt --verify --rate 500
    """
    try:
        report, next_step = run(_reencrypt(settings_or_exit(), verify, Pace(batch, rate), reason))
    except RotationRefused as refused:
        stop([str(refused)], FAILED)
    if as_json:
        print_json({**asdict(report), "complete": report.complete, "next": next_step})
    else:
        _tell(report, next_step)
    if not report.complete:
        raise typer.Exit(FAILED)


async def _generate(settings: Settings) -> str:
    key_id, key = await new_configured_key(settings)
    return format_key_entries({key_id: key})


async def _status(settings: Settings) -> KeyStatus:
    keys = await encryption_keys(settings)
    async with open_control_store(settings) as control:
        return await key_status(control, keys)


async def _rotate(settings: Settings, stage: RotationStage) -> Mapping[str, bytes]:
    told = await _status(settings)
    configured = await key_provider(settings).configured()
    if stage is RotationStage.ADD:
        return add_key(configured, *await new_configured_key(settings), added=told.added)
    if stage is RotationStage.USE:
        keys = use_newest_key(configured, in_use=told.in_use, replaced=told.replaced)
        check_known(next(iter(keys)), told.known, setting=told.setting)
        return keys
    keys = retire_old_keys(configured, in_use=told.in_use, added=told.added)
    check_encrypts(told.current, told.known, setting=told.setting)
    return keys


async def _reencrypt(
    settings: Settings, verify: bool, pace: Pace, reason: str | None
) -> tuple[ReencryptionReport, str]:
    keys = await encryption_keys(settings)
    async with open_control_store(settings) as control:
        told = await key_status(control, keys)
        if not told.healthy:
            raise SettingsInvalid([told.next_step()])
        check_known(told.current, told.known, setting=told.setting)
        async with control.transaction() as session:
            await note(session, Act.REENCRYPT, keys.current_key_id, actor="cli", reason=reason, now=utc_now())
        with progress_bar() as progress:
            rows = await count_not_of_key(control, keys.current_key_id)
            moving = progress.add_task("re-encrypting", total=rows)
            work = Reencryption(control, keys, pace=pace)
            report = await work.run(lambda done: progress.advance(moving, done))
            if verify and report.complete:
                opening = progress.add_task("verifying", total=await count_all(control))
                await work.verify(lambda done: progress.advance(opening, done))
        return report, (await key_status(control, keys)).next_step()


def _tell(report: ReencryptionReport, next_step: str) -> None:
    say(f"Re-encrypted {report.rewritten:,} secrets; {report.remaining:,} carry another key than the current one.")
    if report.verified is not None:
        say(f"Verified: {report.verified:,} secrets open with '{report.current_key_id}' alone.")
    for place in report.unreadable:
        say(f"does not open: {place}", error=True)
    if report.unreadable_rows:
        say(f"{report.unreadable_rows:,} secrets do not open; nothing was changed there.", error=True)
    elif report.remaining:
        say(
            "Secrets keep arriving with another key: a process still runs with the previous value. "
            "Deploy the new value to every process, then run this again.",
            error=True,
        )
    else:
        say(next_step)
