"""Provisioning: the destination in the customer's workspace, made, kept as it should be, and taken away."""
