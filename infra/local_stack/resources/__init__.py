"""The wiring of each resource type, for interpreter.py.

storage.py     buckets with their notifications, and queues
functions.py   functions, and what starts them: event source mappings, schedules, the end of a deployment
api.py         the API's routes
edge.py        the distribution, its policies, and what it may read
properties.py  the check that every property is known
"""
