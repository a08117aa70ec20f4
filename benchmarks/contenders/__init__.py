"""Servers that are measured beside the service; each takes the same deliveries on the same path."""
