"""One customer's connection to the partner: install tokens, API keys, state, provisioning and reconciliation."""
