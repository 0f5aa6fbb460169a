"""The wiring of each resource type, for interpreter.py.

storage.py     buckets with their notifications, and queues
functions.py   functions and their triggers: event source mappings, schedules, the end of a deployment
api.py         the API's routes
edge.py        the distribution, its policies, and its read rights
properties.py  the check that every property is known
"""
