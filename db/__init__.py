"""What is stored: tables, encryption, repositories, the event log and migrations.

Two stores with separate growth: the *control* store (accounts, installs, keys, flow states, outbox, audit)
and the *event log* (every received event). Nothing here knows HTTP.
"""
