"""Acme CRM, an imaginary partner: what a SaaS company writes to receive its customers' Segment data.

``handlers`` is the part to read first; ``contacts`` is Acme's own product, kept small.
Start the service with ``HANDLERS=examples.acme_crm.handlers:crm``.
"""
