"""HTTP routes: thin functions that read a request, ask a service, and show a page."""
