"""What a partner declares: components, handlers, settings, and the event that a handler is called with."""
