"""EventBridge Scheduler's part: runs each schedule once when the stack has started, then at its times."""

import re
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from local_stack.errors import TemplateError
from local_stack.lambda_pool import Outcome
from local_stack.wiring import Schedule

_UNITS = {"minute": 60, "hour": 3600, "day": 86400}


def next_run(expression: str, after: datetime) -> datetime:
    """Return when a schedule runs next after a UTC time. Raise TemplateError for an unknown form.

    Known: `rate(<n> minutes|hours|days)` and the daily `cron(<minute> <hour> * * ? *)`.
    """
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression)
    if rate:
        return after + timedelta(seconds=int(rate.group(1)) * _UNITS[rate.group(2)])
    daily = re.fullmatch(r"cron\((\d+) (\d+) \* \* \? \*\)", expression)
    if daily:
        today = after.replace(hour=int(daily.group(2)), minute=int(daily.group(1)), second=0, microsecond=0)
        return today if today > after else today + timedelta(days=1)
    raise TemplateError(f"the local stack does not know the schedule {expression}; teach scheduler.py")


class Scheduler:
    """A runner of schedules, each in its own thread until stopped."""

    def __init__(
        self,
        schedules: Iterable[Schedule],
        invoke: Callable[[str, object], Outcome],
        failed: Callable[[str, str], None],
    ) -> None:
        self._schedules = {schedule.logical_id: schedule for schedule in schedules}
        self._invoke = invoke
        self._failed = failed
        self._stopping = threading.Event()
        self._first_done = threading.Event()
        for schedule in self._schedules.values():
            next_run(schedule.expression, datetime.now(UTC))  # an unknown form is refused before anything starts

    @property
    def names(self) -> list[str]:
        """The schedules' logical ids."""
        return sorted(self._schedules)

    def start(self) -> None:
        """Run every schedule once, one after the other, then each at its times."""

        def first_runs() -> None:
            for name in self.names:
                if not self._stopping.is_set():
                    self.run(name)
                threading.Thread(target=self._repeat, args=(name,), name=name, daemon=True).start()
            self._first_done.set()

        threading.Thread(target=first_runs, name="schedules", daemon=True).start()

    def has_run(self) -> bool:
        """Return whether every schedule has run once."""
        return self._first_done.is_set()

    def stop(self) -> None:
        """Start nothing more."""
        self._stopping.set()

    def run(self, name: str) -> Outcome:
        """Run one schedule now."""
        schedule = self._schedules[name]
        outcome = self._invoke(schedule.function, schedule.event)
        if outcome.error and not self._stopping.is_set():
            self._failed(schedule.function, outcome.error)
        return outcome

    def _repeat(self, name: str) -> None:
        while True:
            now = datetime.now(UTC)
            due = next_run(self._schedules[name].expression, now)
            if self._stopping.wait((due - now).total_seconds()):
                return
            self.run(name)
