"""Segment's resource names, such as ``workspaces/{ws}/sources/{src}/destinations/{slug}`` (contract 3.2).

Names arrive in answers and become parts of URLs, so each part is checked: nothing that could end the path, climb
it, or split a header gets through.
"""

from __future__ import annotations

from urllib.parse import quote

_LONGEST_PART = 200


class NameInvalid(ValueError):
    """The text is not a resource name of the expected kind."""


def workspace_name(text: str) -> str:
    """Return ``workspaces/{slug}``, whether the prefix was there or not (contract 3.2, case 60).

    Raises:
        NameInvalid: no single slug.
    """
    parts = text.removeprefix("/").split("/")
    if len(parts) == 1:
        parts = ["workspaces", *parts]
    return _joined(parts, "workspaces")


def source_name(text: str) -> str:
    """Return ``workspaces/{ws}/sources/{src}``, whether the first prefix was there or not.

    Raises:
        NameInvalid: not a workspace and a source.
    """
    parts = text.removeprefix("/").split("/")
    if len(parts) == 3:
        parts = ["workspaces", *parts]
    return _joined(parts, "workspaces", "sources")


def workspace_of(source: str) -> str:
    """Return the workspace's name that a source's name begins with.

    Raises:
        NameInvalid: not a source's name.
    """
    return "/".join(source_name(source).split("/")[:2])


def install_name(text: str) -> str:
    """Return ``installs/{n}``; the singular ``install/{n}`` of one documented example counts too (contract 2.7).

    Raises:
        NameInvalid: something else.
    """
    kind, _, rest = text.removeprefix("/").partition("/")
    return _joined(["installs" if kind == "install" else kind, *rest.split("/")], "installs")


def destination_name(source: str, slug: str) -> str:
    """Return the name of the destination ``slug`` of a source.

    Raises:
        NameInvalid: not a source's name, or a slug that is none.
    """
    return f"{source_name(source)}/destinations/{_checked(slug)}"


def source_of(destination: str) -> str:
    """Return the source's name that a destination's name begins with.

    Raises:
        NameInvalid: not a destination's name.
    """
    parts = destination.split("/")
    _joined(parts, "workspaces", "sources", "destinations")
    return "/".join(parts[:4])


def setting_name(destination: str, key: str) -> str:
    """Return the full name of one setting; a bare key would be refused (contract 3.2, quirk 13)."""
    return f"{destination}/config/{_checked(key)}"


def setting_key(name: str) -> str:
    """Return the key at the end of a setting's full name; a bare key is returned as it is."""
    return name.rpartition("/config/")[2]


def path_of(name: str) -> str:
    """Return a name as the path of a URL, each part percent-encoded."""
    return "/".join(quote(part, safe="") for part in name.split("/"))


def _joined(parts: list[str], *kinds: str) -> str:
    if len(parts) != 2 * len(kinds) or tuple(parts[::2]) != kinds:
        raise NameInvalid(f"expected a name like {'/'.join(f'{kind}/...' for kind in kinds)}")
    for part in parts[1::2]:
        _checked(part)
    return "/".join(parts)


def _checked(part: str) -> str:
    unsafe = any(c in "/?#%\\" or c.isspace() or not c.isprintable() for c in part)
    if not part or len(part) > _LONGEST_PART or unsafe or part in {".", ".."}:
        raise NameInvalid("a part of a resource name is empty, too long, or holds a character that no slug has")
    return part
