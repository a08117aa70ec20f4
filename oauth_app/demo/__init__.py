"""The demo: the whole journey of a customer, over real HTTP, against the sandbox."""
