"""A process that brings up servers to be killed: the whole service, or a role of it.

Run as ``python -m tests.crash.nursery ROLE SOCKET PIDFILE`` with the service's settings in the environment. It has
everything imported and nothing opened, so after a kill the next server is there in a moment. A server that cannot
start, because its database is away, is tried again, as whatever supervises a service does it. The socket was bound by
whoever started this: the port stays the same through the kills.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import enable_with_segment.db.clock
from tests.crash.clock import MovedClock

enable_with_segment.db.clock.utc_now = MovedClock(Path(os.environ["CLOCK_FILE"]))
# What follows takes the time from there, and so from the clock that was put in its place.

import uvicorn  # noqa: E402  after the clock

from enable_with_segment.oauth_app.web.application import create_app  # noqa: E402  after the clock


def main() -> None:
    """Fork a server, write down its process id, and fork the next one when it is dead."""
    role, listener, pid_file = sys.argv[1], socket.socket(fileno=int(sys.argv[2])), Path(sys.argv[3])
    while True:
        child = os.fork()
        if child == 0:
            application = create_app(role="web" if role == "web" else "worker" if role == "worker" else "all")
            config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="on")
            uvicorn.Server(config).run(sockets=[listener])
            os._exit(0)
        new = pid_file.with_suffix(".new")
        new.write_text(str(child), encoding="ascii")
        new.rename(pid_file)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            time.sleep(0.1)


if __name__ == "__main__":
    main()
