"""How we call Segment: identity (OAuth), the Config API, and the names and errors that both share.

Knows nothing of accounts, keys or storage. Base URLs are always given, never built in.
"""
