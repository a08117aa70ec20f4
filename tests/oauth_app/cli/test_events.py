"""``events list|replay|pause|resume|erase`` and ``dead-letters groups|retry --group``, as an operator types them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from enable_with_segment import Event, EventNotSupported, InvalidEventPayload, Subscription
from enable_with_segment.components.subscription import load_subscription
from enable_with_segment.db.control import pauses
from enable_with_segment.oauth_app.runtime.settings import Settings
from enable_with_segment.oauth_app.runtime.stores import Stores, open_stores
from enable_with_segment.subscriptions.dispatch.dispatcher import Dispatcher
from tests.db.event_log.events import new_event
from tests.oauth_app.shell import Shell


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """A shell over stores with two events that were handled and one that cannot be."""
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path)
    assert made.run("migrate").exit_code == 0
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)

    step = b'{"type":"track","event":"Step","userId":"u-1"}'

    async def fill(stores: Stores) -> None:
        for number, body in enumerate((step, step, b"no JSON")):
            await stores.event_log.append(new_event(f"m-{number}", type="track", event="Step", body=body))

    within(fill)
    within(handle)
    return made


def within(work: Any) -> Any:
    """Run something over the stores that the environment names."""

    async def opened() -> Any:
        async with open_stores(Settings()) as stores:
            return await work(stores)

    def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, coroutine).result()

    return run(opened())


async def handle(stores: Stores) -> int:
    """Let the service handle what is due."""
    crm = load_subscription("tests.oauth_app.operations:crm")
    return await Dispatcher({crm.name: crm}, stores.event_log, stores.control).run_due()


def test_a_replay_counts_first_and_then_runs(shell: Shell) -> None:
    counted = shell.json("events replay --type track --state handled --dry-run --json")
    assert isinstance(counted, dict)
    assert (counted["counts"]["events"], counted["revived"], counted["replay"]) == (2, 0, None)
    assert "Nothing was changed" in shell.run("events replay --from 2026-03-01 --dry-run").stdout
    done = shell.json("events replay --from 2026-03-01T00:00Z --to 2026-03-03 --state handled --handler keep --json")
    assert isinstance(done, dict)
    assert done["revived"] == 2
    assert within(handle) == 2
    others = shell.json("events replay --handler refuse --dry-run --json")
    assert isinstance(others, dict)
    assert others["counts"]["events"] == 0  # it takes identify events
    assert shell.run(f"events replay --resume {done['replay']}").exit_code == 1
    assert "were handed out again" in shell.run("events replay --type track --state handled").stdout
    assert shell.run("events replay --account nobody").exit_code == 0


@pytest.mark.parametrize(
    "line",
    [
        "events replay",
        "events replay --from yesterday",
        "events replay --handler nobody",
        "events replay --resume rep_1 --type track",
        "events pause --handler nobody",
        "dead-letters retry --all --group 1",
        "dead-letters retry --group zzz",
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(shell: Shell, line: str) -> None:
    done = shell.run(line)
    assert done.exit_code == 2
    assert "error:" in done.stderr


def test_copies_with_another_body_and_replays_are_shown(shell: Shell) -> None:
    async def send_again(stores: Stores) -> None:
        for body, replay in ((b'{"another":1}', False), (b'{"another":2}', False), (b'{"another":3}', True)):
            await stores.event_log.append(new_event("m-0", type="track", event="Step", body=body, replay=replay))

    within(send_again)
    lines = [line.split() for line in shell.run("events show m-0").stdout.splitlines()]
    rows = {" ".join(words[:-1]): words[-1] for words in lines if words}
    assert (rows["duplicates"], rows["copies with another body"], rows["replays"]) == ("3", "2", "1")


def test_a_handler_is_paused_and_resumed(shell: Shell) -> None:
    paused = shell.json("events pause --handler keep --json")
    assert paused == {"component": "acme-crm", "handler": "keep", "paused": True, "changed": True}
    assert "was paused already" in shell.run("events pause --handler keep").stdout

    async def rows(stores: Stores) -> int:
        async with stores.control.transaction() as session:
            return len(await pauses.get_all(session))

    assert within(rows) == 1
    assert "gets events again" in shell.run("events resume --handler keep").stdout
    assert within(rows) == 0
    assert "was not paused" in shell.run("events resume").stdout
    assert "events.resume" in shell.run("audit list").stdout


def test_resuming_tells_what_else_is_paused(shell: Shell) -> None:
    assert shell.run("events pause --handler keep").exit_code == 0
    done = shell.run("events resume")
    assert (done.exit_code, done.stdout) == (
        0,
        "acme-crm was not paused.\nBut handler keep is paused: enable-with-segment events resume --handler keep\n",
    )
    without = shell.run("events resume", HANDLERS="tests.oauth_app.runtime.test_handler_limits:hanging")
    assert without.stdout == "acme-crm was not paused.\n", "a handler that is no longer there is paused for nobody"
    assert shell.run("events pause").exit_code == 0
    done = shell.run("events resume --handler keep --json")
    assert json.loads(done.stdout)["changed"]
    assert done.stderr == "But acme-crm as a whole is paused: enable-with-segment events resume\n"
    assert shell.run("events resume").stdout == "acme-crm gets events again.\n"


def test_a_replay_of_a_paused_component_says_what_to_do(shell: Shell) -> None:
    assert shell.run("events pause").exit_code == 0
    refused = shell.run("events replay --type track --state handled")
    assert refused.exit_code == 1
    assert "acme-crm is paused" in refused.stderr
    assert "events resume" in refused.stderr
    assert shell.run("events replay --type track --dry-run").exit_code == 0
    assert shell.run("events resume").exit_code == 0
    assert shell.run("events replay --type track --state handled").exit_code == 0


def test_dead_letters_are_grouped_and_retried_by_group(shell: Shell) -> None:
    groups = shell.json("dead-letters groups --json")
    assert isinstance(groups, list)
    assert [(group["count"], group["accounts"]) for group in groups] == [(1, ["acme"])]
    assert groups[0]["id"] in shell.run("dead-letters groups").stdout
    assert "1 will be tried again" in shell.run(f"dead-letters retry --group {groups[0]['id']}").stdout
    assert shell.json("dead-letters groups --json") == []
    unknown = shell.run(f"dead-letters retry --group {groups[0]['id']} --reason again")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert f"there is no group '{groups[0]['id']}'" in unknown.stderr
    assert "enable-with-segment dead-letters groups" in unknown.stderr
    assert "again" not in shell.run("audit list").stdout, "nothing was done"


def test_wh_15_erasing_a_person_prints_a_receipt_without_personal_data(shell: Shell) -> None:
    line = "events erase --account acme --user-id karin@mail.example --json"
    first = shell.run(f"{line} --wait 0 --reason ticket-17")
    assert first.exit_code == 1  # nobody serves, so it waits
    receipt = json.loads(first.stdout)
    assert (receipt["state"], receipt["complete"]) == ("pending", False)
    repeated = shell.run(f"{line} --wait 0")
    assert repeated.exit_code == 1  # it is the first one's work, and that is not done
    assert json.loads(repeated.stdout)["done_by"] == receipt["message_id"]
    assert within(handle) >= 1
    again = shell.run(line.removesuffix(" --json"))
    assert again.exit_code == 0, again.output
    assert receipt["message_id"] in again.stdout
    audited = shell.json("audit list --action person.erase --json")
    assert isinstance(audited, list)
    asked = [entry["reason"] for entry in audited if entry["actor"] == "cli"]
    assert asked == [None, None, "ticket-17"]
    assert "karin" not in first.output + repeated.output + again.output

    async def receipts(stores: Stores) -> list[Any]:
        from enable_with_segment.subscriptions.archive.erasure import find_receipt

        found = await find_receipt(stores.event_log, stores.control, receipt["message_id"])
        missing = await find_receipt(stores.event_log, stores.control, "elsewhere")
        return [found, missing]

    found, missing = within(receipts)
    assert missing is None
    assert found.complete
    assert (found.stored_events, found.merged_ids) == (1, 0)  # the second request
    assert {name: state.value for name, state in found.handlers.items()} == {"forget (delete)": "done"}


@pytest.mark.parametrize(
    ("answer", "state", "said"),
    [
        (EventNotSupported("not here"), "unsupported", "your product may still know the person"),
        (InvalidEventPayload("never"), "dead_letter", "dead-letters retry"),
    ],
)
def test_wh_15_an_erasure_that_handlers_did_not_take_part_in_says_so(
    shell: Shell, answer: Exception, state: str, said: str
) -> None:
    crm = Subscription("acme-crm")

    @crm.on("delete")
    async def forget(event: Event) -> None:
        raise answer

    async def handled(stores: Stores) -> int:
        return await Dispatcher({crm.name: crm}, stores.event_log, stores.control).run_due()

    def serve() -> None:
        while not within(handled):
            time.sleep(0.05)

    with ThreadPoolExecutor(1) as thread:
        serving = thread.submit(serve)
        erased = shell.run("events erase --account acme --user-id u-1 --wait 30")
        serving.result(30)
    assert erased.exit_code == 1
    assert said in " ".join(erased.stdout.split())
    deletes = shell.json("events list --type delete --json")
    assert isinstance(deletes, list)
    (receipt,) = deletes
    assert (receipt["state"], receipt["erased"]) == (state, state == "unsupported")


def test_a_list_says_how_far_back_it_looked_and_how_to_go_on(shell: Shell) -> None:
    first = shell.run("events list --type track --limit 2 --json")
    assert [event["message_id"] for event in json.loads(first.stdout)] == ["m-2", "m-1"]
    assert "Searched back to 2026-03-02 12:00:00. Older events: --before 2" in first.stderr
    rest = shell.run("events list --type track --before 2 --json")
    assert [event["message_id"] for event in json.loads(rest.stdout)] == ["m-0"]
    assert rest.stderr == ""
    assert "No event matches." in shell.run("dead-letters list --before 1").stdout
