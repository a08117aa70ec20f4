"""The README's first handler: its blocks, run in order in an empty folder, end in a handled event."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.journey.processes import Running
from tests.listening import free_port

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"```(python|sh)\n(.*?)```", re.DOTALL)
SERVE = "enable-with-segment serve\n"


def blocks() -> list[tuple[str, str]]:
    """Language and text of each block of the section, in order."""
    section = README.read_text(encoding="utf-8").partition("## Write a handler")[2].partition("\n## ")[0]
    return BLOCK.findall(section)


async def run(script: str, folder: Path) -> str:
    """Run a block as a shell does; returns what it printed."""
    environment = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = await asyncio.create_subprocess_exec(
        "bash", "-euc", script, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()
    return printed.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README sends its event with curl, which is not installed")
async def test_the_first_handler_runs_as_it_stands(tmp_path: Path) -> None:
    (python, handler), (_, start), (_, send) = blocks()
    name = re.match(r"# (\w+\.py)\n", handler)
    assert python == "python"
    assert name is not None
    (tmp_path / name[1]).write_text(handler, encoding="utf-8")
    before, serve, nothing = start.partition(SERVE)
    assert (serve, nothing) == (SERVE, "")
    await run(before, tmp_path)
    port = str(free_port())
    log = tmp_path / "serve.log"
    service = Running(["serve", "--port", port], {}, log, tmp_path, fresh=True)
    try:
        await asyncio.to_thread(service.wait_for, "ready on")
        told = await run(send.replace("8888", port), tmp_path)
        for _ in range(100):
            if "handled" in told:
                break
            await asyncio.sleep(0.1)
            told = await run("enable-with-segment events show m-1", tmp_path)
        assert "upsert_contact" in told
        assert "handled" in told
        assert service.terminate() == 0
    finally:
        service.clean_up()
