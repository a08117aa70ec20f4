"""The OAuth flow: from a connect link to a saved install."""
