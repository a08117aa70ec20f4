"""How the sandbox delivers events to destinations: requests, retries, outcomes."""
