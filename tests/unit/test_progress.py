"""Progress is reported often enough to be seen, seldom enough to cost nothing, and never ends a rebuild."""

from __future__ import annotations

import errno
import time
from typing import Any

import pytest

from flask_warmcache.status import progress as progress_module
from flask_warmcache.status.progress import Progress, Report


class Clock:
    """The clock that ``progress`` reads; the test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_700_000_000 + self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.fixture
def written() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def progress(clock: Clock, written: list[dict[str, Any]]) -> Progress:
    return Progress(written.append, None)


def test_report_is_written_at_most_ten_times_per_second(
    progress: Progress, written: list[dict[str, Any]], clock: Clock
) -> None:
    progress.begin("enrich", 10_000)
    written.clear()
    for done in range(10_000):
        clock.now += 0.001
        progress.advance(done)
    assert 90 <= len(written) <= 100
    assert progress.report.done == 9_999


def test_phase_is_reported_at_once(progress: Progress, written: list[dict[str, Any]]) -> None:
    for phase in progress_module.RUNNING:
        progress.begin(phase)
    assert [report["phase"] for report in written] == list(progress_module.RUNNING)


def test_keeper_beats_each_second_during_long_item(
    progress: Progress, written: list[dict[str, Any]], clock: Clock
) -> None:
    progress.begin("enrich", 1)
    written.clear()
    for _ in range(50):
        clock.now += 0.2
        progress.beat()
    assert 10 <= len(written) <= 20  # in ten seconds, so at least once a second


def test_rate_and_eta_are_those_of_last_seconds(progress: Progress, clock: Clock) -> None:
    progress.begin("enrich", 2_000)
    progress.advance(0)
    clock.now += 0.2
    progress.advance(1_000)  # reused items take no time
    for done in range(1_001, 1_301):
        clock.now += 0.1
        progress.advance(done)
    assert progress.report.rate == pytest.approx(10, rel=0.05)
    assert progress.report.eta == pytest.approx(70, rel=0.05)


def test_without_rate_or_total_there_is_no_eta() -> None:
    assert Report(done=5, total=10).eta is None
    assert Report(done=5, rate=2.0).eta is None
    assert Report(done=5, rate=0.0, total=10).eta is None
    assert Report(done=5, rate=2.0, total=15).eta == 5
    assert Report(done=20, rate=2.0, total=15).eta == 0


def test_rate_is_measured_only_while_enriching(progress: Progress, clock: Clock) -> None:
    progress.begin("source")
    clock.now += 1
    progress.advance(500)
    assert progress.report.rate is None


def test_report_that_cannot_be_written_does_not_end_rebuild(clock: Clock) -> None:
    def full(report: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    progress = Progress(full, None)
    progress.begin("source")
    clock.now += 1
    progress.advance(5)
    progress.end(None)
    assert progress.report.phase == "finished"


def test_failures_in_row_are_counted(written: list[dict[str, Any]]) -> None:
    before: Report | None = None
    for expected in (1, 2, 3):
        progress = Progress(written.append, before)
        progress.end(ValueError("secret"), next_attempt_at=5.0)
        before = progress.report
        assert (before.failures, before.error, before.has_failed) == (expected, "ValueError", True)
    again = Progress(written.append, before)
    again.begin("source")
    assert again.report.has_failed and again.report.running
    again.end(None)
    assert (again.report.failures, again.report.error, again.report.has_failed) == (0, None, False)
    assert Progress(written.append, again.report).report.failures == 0
    # The text of an error is in one field only, of a file that only this user can read.
    assert {report.pop("message") for report in written} == {"ValueError: secret", None}
    assert "secret" not in str(written)


def test_postponed_rebuild_has_not_failed(progress: Progress, written: list[dict[str, Any]]) -> None:
    progress.begin("source")
    progress.postpone()
    assert written[-1]["phase"] == "finished"
    assert not progress.report.has_failed and not progress.report.running


def test_report_is_read_as_it_was_written(progress: Progress, written: list[dict[str, Any]]) -> None:
    progress.begin("enrich", 7)
    assert Report.read(written[-1]) == progress.report


@pytest.mark.parametrize(
    "raw",
    [
        None,
        {"phase": "source", "unknown": 1},
        {"phase": 5},
        {"phase": None},
        {"started": "yesterday"},
        {"done": None},
        {"failures": "2"},
        {"total": [1]},
        {"next_attempt_at": "soon"},
        {"rate": "fast"},
        *({"next_attempt_at": []}, {"total": ""}, {"ended": {}}, {"rate": []}),  # empty values are no numbers
    ],
    ids=repr,
)
def test_damaged_report_or_one_of_another_version_is_ignored(raw: dict[str, Any] | None) -> None:
    assert Report.read(raw) is None


def test_missing_fields_of_report_have_defaults() -> None:
    report = Report.read({"phase": "failed", "failures": 3})
    assert report is not None and report.failures == 3
    assert time.time() > report.started == 0.0


def test_time_before_hand_over_counts_but_not_before_interruption(
    progress: Progress, written: list[dict[str, Any]], clock: Clock
) -> None:
    progress.begin("enrich", 10)
    clock.now += 3
    progress.leave_to_child(deadline=0)
    left = Report.read(written[-1])
    assert Progress(written.append, left, handed_over=True).report.worked == 3
    assert Progress(written.append, left).report.worked == 0
