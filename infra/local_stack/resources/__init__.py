"""The wiring of each resource type, for interpreter.py.

storage.py     buckets with their notifications, and queues
functions.py   functions and their triggers: event source mappings, schedules, the end of a deployment, routes
edge.py        the distribution, its policies, and its read rights
"""
