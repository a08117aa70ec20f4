"""Receiving: from a request of Segment to an event that is durable, and its answer."""
