"""Versions below which a known security fix is missing, and packages that must not be beside ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from enable_with_segment.oauth_app.doctor.finding import Finding, failure, ok

FLOORS: Mapping[str, tuple[int, ...]] = {"authlib": (1, 6, 12), "starlette": (1, 3, 1)}
"""The least versions with the security fixes this service relies on."""

UNWANTED: Mapping[str, str] = {"httpx2": "Authlib prefers it to httpx, and errors of httpx2 are not caught as httpx's"}

VersionOf = Callable[[str], str | None]


def installed_version(package: str) -> str | None:
    """Return a package's installed version, if it is installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_dependencies(version_of: VersionOf = installed_version) -> Iterator[Finding]:
    """Compare what is installed with the floors (OP-1)."""
    for package, floor in FLOORS.items():
        found = version_of(package)
        least = ".".join(map(str, floor))
        if found is not None and release(found) >= floor:
            yield ok("dependencies", f"{package} {found} has the security fixes of {least}.")
        else:
            yield failure(
                "dependencies",
                f"{package} {found or 'is missing'} is older than {least}.",
                f"Install {package}>={least}.",
            )
    for package, why in UNWANTED.items():
        if version_of(package) is not None:
            yield failure("dependencies", f"{package} is installed: {why}.", f"Uninstall it: pip uninstall {package}")


def release(text: str) -> tuple[int, ...]:
    """Return the numbers a version begins with: ``1.7.0rc1`` is ``(1, 7, 0)``."""
    numbers = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in numbers.group().split(".")) if numbers else ()
