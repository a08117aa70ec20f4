"""The HTTP API for a partner's backend, under ``/api/v1``: JSON in and out, API tokens, one description of it all."""
