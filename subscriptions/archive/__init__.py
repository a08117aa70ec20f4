"""Stored events afterwards: found, proven, replayed, erased, and dropped when they are old enough."""
