"""Receive events: from a request to the partner's handlers."""
