"""Dispatch: from a stored event to the partner's handlers, at least once."""
