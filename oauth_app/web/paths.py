"""Paths of a service that may be mounted below a path of another application, or of a proxy."""

from __future__ import annotations

from starlette.types import Scope


def path_below_mount(scope: Scope) -> str:
    """Return the path of a request as our routes name it, without the path that the service is mounted at."""
    path: str = scope["path"]
    root: str = scope.get("root_path") or ""
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def enter_base_path(scope: Scope, base_path: str) -> None:
    """Take the path of BASE_URL for the mount, where a proxy passes it on and nothing else has mounted the service.

    Without this a service that listens by itself would only be found behind a proxy that removes the path.
    """
    if scope.get("root_path"):
        return
    if scope["path"] == base_path:
        scope["path"] = f"{base_path}/"
    if scope["path"].startswith(f"{base_path}/"):
        scope["root_path"] = base_path
