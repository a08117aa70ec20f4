"""The event log: every received event, what became of it, and who was erased.

``log.EventLog`` is what the webhook and the dispatcher need, ``log.EventArchive`` what an operator needs;
``sql.SqlEventLog`` is both, over SQLite and PostgreSQL. The log has tables and revisions of its own and may live in
the control store's PostgreSQL database or in a file beside the control store's.
"""
