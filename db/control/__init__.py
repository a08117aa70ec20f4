"""The control store: one module for each noun, functions that take the session of the caller's transaction."""
