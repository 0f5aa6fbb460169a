"""Promotions and check results over the API: who may send them, and the answers. Each right has a name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from imageserver.api import problems
from imageserver.api.problems import Problem, parsed
from imageserver.api.schema import Checked, CheckRequest, CheckStatus, Promoted, PromotionRequest
from imageserver.aws.queues import Notifier
from imageserver.catalog.rights import Right, Rights
from imageserver.errors import InvalidView, NotPassed, NoVersion, NoView, OtherState
from imageserver.format.keys import VersionId, parse_version
from imageserver.operations.check_results import post_result, results_of
from imageserver.operations.inventory import record_of
from imageserver.operations.promotion import promote as point_to
from imageserver.operations.promotion import take_back
from imageserver.operations.view_documents import view_of
from imageserver.storage.port import Store
from imageserver.storage.retries import Pause
from imageserver.views.channels import promotions_of
from imageserver.views.checks import Result, counts, fingerprints_of
from imageserver.views.view import Promotion

_VERBS: Final[dict[Right, str]] = {
    "promote": "promote {path} to the channel {name}",
    "check": "post results of the check {name} for {path}",
}


@dataclass(frozen=True, slots=True)
class PromotionService:
    """Dependencies of promotions and check results. `has_views`: the server can have channels."""

    store: Store
    rights: Rights
    notifier: Callable[[], Notifier]
    has_views: bool
    now: datetime
    pause: Pause


def promote(service: PromotionService, caller: str, request: PromotionRequest) -> Promoted:
    """Point a channel to a version, or back from it. Raise Problem if the caller may not, or if it is impossible."""
    version = parsed(parse_version, request.path)
    _check_right(service, caller, "promote", request.channel, version)
    if request.back and request.require:
        raise Problem(problems.BAD_REQUEST, "a channel goes back without checks: leave out `require` or `back`")
    store, channel, now = service.store, request.channel, service.now
    with _problems(channel):
        if request.back:
            moved = take_back(store, channel, version.product, now, caller, service.pause, version.version)
        else:
            moved = point_to(store, channel, version, now, caller, service.pause, request.require)
    service.notifier().product_changed(version.product)
    return Promoted(channel=channel, product=moved.product.path, before=moved.before, after=moved.after)


def post_check(service: PromotionService, caller: str, request: CheckRequest) -> Checked:
    """Store the result of a check. Raise Problem if the caller may not post it, or the version has other bytes now."""
    version = parsed(parse_version, request.path)
    _check_right(service, caller, "check", request.check, version)
    with _problems(""):
        result = post_result(
            service.store,
            version,
            request.check,
            passed=request.passed,
            tested=request.fingerprints,
            url=request.url,
            now=service.now,
            by=caller,
            pause=service.pause,
        )
    return Checked(path=version.path, check=request.check, result=_status(result, is_current=True))


def shown_to(service: PromotionService, caller: str, version: VersionId) -> dict[str, Any]:
    """Return the fields of a status that are only for callers who may promote the version or post results about it.

    `checks` are all its results, `channels` its promotions in the channels that the caller may promote it to. For any
    other caller there are none, and no request to the store.
    """
    store, names = service.store, service.rights.names
    promotable = names(caller, "promote", version.path)
    if not service.has_views or not (promotable or names(caller, "check", version.path)):
        return {}
    results = results_of(store, version)
    record = record_of(store, version) if results else None
    now = fingerprints_of(record) if record else frozenset()
    checks = {
        name: _status(result, is_current=counts(result, now))
        for name, result in sorted((results.results if results else {}).items())
    }
    channels: dict[str, list[Promotion]] = {}
    for name in sorted(promotable):
        view = view_of(store, name)
        if view and (promotions := promotions_of(view, version)):
            channels[name] = promotions
    return {"checks": checks, "channels": channels}


def _check_right(service: PromotionService, caller: str, right: Right, name: str, version: VersionId) -> None:
    if name not in service.rights.names(caller, right, version.path):
        what = _VERBS[right].format(path=version.path, name=name)
        raise Problem(
            problems.FORBIDDEN,
            f"{caller or 'a caller without a name'} may not {what}; the operator grants {right}:{name}, for the "
            f"prefixes of the caller, or {right}:{name}:PREFIX in the parameter Publishers",
        )
    if not service.has_views:
        raise Problem(
            problems.NOT_FOUND, "this server has no channels; the operator deploys it with the parameter Views=true"
        )


@contextmanager
def _problems(channel: str) -> Iterator[None]:
    """Turn the refusals of a view into problems."""
    try:
        yield
    except NotPassed as refusal:
        raise Problem(problems.NOT_PASSED, str(refusal), missing=refusal.missing) from refusal
    except NoView as refusal:
        sentence = f"there is no channel {channel}; the operator makes one with admin view create"
        raise Problem(problems.NOT_FOUND, sentence) from refusal
    except NoVersion as refusal:
        raise Problem(problems.NOT_FOUND, str(refusal)) from refusal
    except OtherState as refusal:
        raise Problem(problems.OTHER_STATE, str(refusal)) from refusal
    except InvalidView as refusal:
        raise Problem(problems.INVALID, str(refusal)) from refusal


def _status(result: Result, *, is_current: bool) -> CheckStatus:
    return CheckStatus(
        passed=result.passed,
        at=result.at,
        by=result.by,
        url=result.url,
        fingerprints=list(result.tested),
        counts=is_current,
    )
