"""The sandbox's identity server: authorization, consent, tokens."""
