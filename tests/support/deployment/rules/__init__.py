"""What must hold for the deployed stack and no linter checks. Each rule yields what is wrong.

A rule sees the stack with every reference made concrete, so that it does not matter how the template spells a thing.
`tests/deployment` breaks the template on purpose, once for each rule and more, and requires the rule to notice.

registry.py   the table of rules, and helpers for rules of several themes
storage.py    the buckets
queues.py     the way from bucket to function
policies.py   who may do what
functions.py  the functions and the schedule
edge.py       CloudFront
api.py        the API
alarms.py     alarms and the dashboard
template.py   parameters, outputs, the order of resources
"""

# A theme's rules enter RULES when it is imported, so every theme is, whether or not a name of it is used here.
# Each adds its rules.
from tests.support.deployment.rules import alarms, api, edge, functions, policies, queues, storage, template  # noqa: F401
from tests.support.deployment.rules.alarms import METRICS, METRICS_OF_DELTAS, METRICS_OF_MIRRORS
from tests.support.deployment.rules.api import PUBLIC_ROUTES, every_route_asks_who_calls
from tests.support.deployment.rules.edge import the_edge_speaks_https_and_only_reads
from tests.support.deployment.rules.registry import RULES

__all__ = [
    "METRICS",
    "METRICS_OF_DELTAS",
    "METRICS_OF_MIRRORS",
    "PUBLIC_ROUTES",
    "RULES",
    "every_route_asks_who_calls",
    "the_edge_speaks_https_and_only_reads",
]
