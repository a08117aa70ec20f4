"""The dashboard: every install, event and key, and what an operator can do about them. Server-rendered, no script."""
