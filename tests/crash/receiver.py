"""The process that is killed: the whole service over SQLite, with a handler that writes down what it was given.

Run as ``python -m tests.crash.receiver SOCKET`` with the service's settings in the environment.
"""

from __future__ import annotations

import os
import socket
import sys

import uvicorn

from oauth_app.application import create_application
from subscriptions import Event, Subscription

crm = Subscription("acme-crm")


@crm.on("track", batch=100)
async def note(events: list[Event]) -> None:
    """Append the ids to a file, in one write that survives the process."""
    lines = "".join(f"{event.message_id}\n" for event in events)
    with open(os.environ["HANDLED_FILE"], "ab", buffering=0) as file:  # noqa: ASYNC230, PTH123  one short write
        file.write(lines.encode())


@crm.on("delete")
async def forget(event: Event) -> None:
    """Segment requires it."""


def main() -> None:
    """Fork a server, print its process id, and fork the next one when it is dead.

    The parent has everything imported and nothing opened, so the next server is there in a moment. The socket was
    bound by whoever started this: the port stays the same through the kills.
    """
    listener = socket.socket(fileno=int(sys.argv[1]))
    while True:
        child = os.fork()
        if child == 0:
            config = uvicorn.Config(create_application(), log_config=None, access_log=False, lifespan="on")
            uvicorn.Server(config).run(sockets=[listener])
            os._exit(0)
        print(child, flush=True)  # noqa: T201  read by the rig
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
