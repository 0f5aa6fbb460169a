"""Plan which versions of a product are surplus, by count and by age. Pure: the caller acts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from imageserver.format.keys import VersionId, version_moment
from imageserver.format.wording import counted
from imageserver.versions.assessment import ahead_of_upload, overrides
from imageserver.versions.records import Record
from imageserver.versions.state import State


@dataclass(frozen=True, slots=True)
class Rule:
    """Keep the newest `versions`, and none older than `days`; 0 keeps all."""

    versions: int = 0
    days: int = 0


def expired(known: Iterable[Record], listed: Collection[str], rule: Rule, now: datetime) -> list[tuple[VersionId, str]]:
    """Return the complete versions of one product that the rule does not keep, oldest first, each with the reason.

    `listed` are the names of the versions that its catalog lists. An unlisted version never
    pushes out a listed one. The newest version and the newest listed one are always kept, whatever their age: a product
    does not vanish when its builds stop. A version dated ahead of its upload is left alone and is not counted. The
    product's own `retain_versions` and `retain_days`, as its newest version gives them, take precedence over the rule.
    """
    complete = [record for record in known if record.state is State.COMPLETE and not ahead_of_upload(record)]
    complete.sort(key=lambda record: (version_moment(record.id.version), record.id.version), reverse=True)
    if not complete:
        return []
    own = overrides(complete[0])
    rule = Rule(
        rule.versions if own.retain_versions is None else own.retain_versions,
        rule.days if own.retain_days is None else own.retain_days,
    )
    plan = []
    newer = 0  # listed ones only
    for place, record in enumerate(complete):
        is_listed = record.id.version in listed
        protected = place == 0 or (is_listed and newer == 0)
        if not protected and (reason := _reason(record, newer if is_listed else place, rule, now)):
            plan.append((record.id, reason))
        newer += is_listed
    return plan[::-1]


def _reason(record: Record, newer: int, rule: Rule, now: datetime) -> str:
    if rule.versions and newer >= rule.versions:
        verbs = ["is" if count == 1 else "are" for count in (newer, rule.versions)]
        return f"{counted(newer, 'newer version')} {verbs[0]} there, and {rule.versions:,} {verbs[1]} kept"
    days = (now - version_moment(record.id.version).replace(tzinfo=UTC)).days
    if rule.days and days >= rule.days:
        return f"it is {days} days old, and versions are kept for {rule.days}"
    return ""
