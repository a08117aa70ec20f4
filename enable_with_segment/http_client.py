"""The one import of the HTTP client library: the rest says ``from enable_with_segment.http_client import httpx``.

Its successor, httpx2, has the same API: moving to it means to change the import below, the dependency in
``pyproject.toml``, and the name in ``oauth_app/doctor/dependencies.py``.
"""

import httpx as httpx  # noqa: PLC0414 - exported

__all__ = ["httpx"]
