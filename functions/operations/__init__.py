"""What can be done to a server: settle, withdraw, sweep, retain. Each is given its store, clock and pauses.

The functions and `scripts/admin` do the same things with these; nothing here knows of Lambda, HTTP or settings.
"""
