"""The table of the steps, and the messages about a long step."""

from __future__ import annotations

import time

import pytest

from cli.smoke import report
from cli.smoke.run import Done, Step


def test_the_table_is_aligned_and_a_detail_stays_in_its_row() -> None:
    done = [Done("tidy", "ok", 0.5, ""), Done("page", "failed", 12.25, "two\nlines"), Done("lxc", "skipped", 0, "no")]
    assert report.table(done).splitlines() == [
        "STEP  RESULT   SECONDS",
        "tidy  ok           0.5",
        "page  failed      12.2  two lines",
        "lxc   skipped           no",
    ]
    assert report.summary(done) == "1 of 2 steps not ok: page (13 s)"
    assert report.summary(done[:1]) == "1 step ok (0 s)"


def test_long_steps_are_reported_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "QUIET_S", 0.01)
    with report.watch(Step("listed", "waiting for it", lambda _: "")):
        time.sleep(0.2)
    assert capsys.readouterr().err == "smoke: listed: waiting for it\n"
    monkeypatch.setattr(report, "QUIET_S", 60)
    with report.watch(Step("listed", "waiting for it", lambda _: "")):
        pass
    assert capsys.readouterr().err == ""
