"""Alembic's revisions, one folder for each store."""
