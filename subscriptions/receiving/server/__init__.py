"""The uvicorn adapter: an HTTP protocol that answers deliveries on a fast path."""
