"""Progress bars, and rates of training."""

import sys
import time

import pytest

from world_models.runtime import progress


@pytest.mark.parametrize(("terminal", "interval"), [(True, 0.1), (False, 30)])
def test_progress_is_rarely_written_to_a_log(monkeypatch: pytest.MonkeyPatch, terminal: bool, interval: float):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    with progress.bar(10, "frames", "train") as bar:
        assert bar.mininterval == interval


@pytest.mark.parametrize(("start", "shown"), [(0, 0), (4, 4), (99, 10)])
def test_progress_starts_at_the_number_of_finished_units(start: int, shown: int):
    with progress.bar(10, "frames", "train", start) as bar:
        assert bar.n == shown


def test_two_bars_write_no_cursor_codes_into_a_log(capsys: pytest.CaptureFixture[str]):
    with progress.bar(2, "parts", "evaluate"), progress.bar(2, "steps", "memories") as below:
        below.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["evaluate", "memories", "memories", "evaluate"]
    assert not any("\x1b" in line for line in lines)


def test_the_meter_measures_frames_since_the_last_call(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 2.0, 6.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = progress.Meter(100)
    assert meter.frames_per_s(200) == 50
    assert meter.frames_per_s(400) == 50


def test_the_meter_does_not_count_the_time_of_a_pause(monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 1.0, 101.0, 102.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    meter = progress.Meter(0)
    with meter.paused():
        pass
    assert meter.frames_per_s(100) == 50
