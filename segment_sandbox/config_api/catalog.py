"""The JSON forms of workspaces, sources and catalog entries (contract 3.4, 3.5)."""

from __future__ import annotations

from enable_with_segment.segment_sandbox.clock import timestamp
from enable_with_segment.segment_sandbox.config import CatalogDestination
from enable_with_segment.segment_sandbox.switches import Switches
from enable_with_segment.segment_sandbox.world import Source, Workspace

_SOURCES = {"http-api": "HTTP API", "javascript": "Javascript", "python": "Python", "ios": "iOS", "android": "Android"}


def workspace_json(workspace: Workspace, switches: Switches) -> dict[str, object]:
    bare = switches.workspace_name_style == "bare"
    return {
        "name": workspace.slug if bare else workspace.name,
        "display_name": workspace.display_name,
        "id": workspace.id,
        "create_time": timestamp(workspace.created_at),
    }


def source_json(source: Source) -> dict[str, object]:
    return {
        "name": source.name,
        "parent": source.workspace,
        "slug": source.slug,
        "display_name": source.display_name,
        "catalog_name": source.catalog_name,
        "write_keys": list(source.write_keys),
        "library_config": {
            "metrics_enabled": False,
            "retry_queue": False,
            "cross_domain_id_enabled": False,
            "api_host": "",
        },
        "create_time": timestamp(source.created_at),
    }


def destination_entry(entry: CatalogDestination) -> dict[str, object]:
    return {
        "name": f"catalog/destinations/{entry.slug}",
        "display_name": entry.display_name,
        "description": "",
        "type": "STREAMING",
        "website": "",
        "status": "PUBLIC_BETA",
        "logos": {"logo": "", "mark": ""},
        "categories": {"primary": "CRM", "secondary": "", "additional": []},
        "components": [{"type": "CLOUD"}],
        "platforms": {"browser": True, "mobile": True, "server": True},
        "methods": {kind: kind in entry.supported_types for kind in ("track", "identify", "group", "alias", "page")},
        "browserUnbundlingSupported": True,
        "settings": [
            {
                "name": setting.key,
                "display_name": setting.display_name,
                "type": setting.type,
                "deprecated": False,
                "required": setting.required,
                "string_validators": {"regexp": ""},
                "map_validators": {
                    "regexp": "",
                    "min": 0,
                    "max": 0,
                    "map_prefix": "",
                    "select_options": list(setting.choices),
                },
                "settings": [],
            }
            for setting in entry.settings
        ],
    }


def source_entries() -> list[dict[str, object]]:
    """The kinds of source that the catalog offers."""
    return [
        {
            "name": f"catalog/sources/{slug}",
            "display_name": display_name,
            "description": "",
            "categories": [],
            "logos": {"logo": "", "mark": ""},
        }
        for slug, display_name in _SOURCES.items()
    ]
