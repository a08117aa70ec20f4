"""The sandbox's Config API."""
