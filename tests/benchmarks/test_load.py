"""Disturbed measurements are repeated, and the load that is reported is that of other processes only."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import count

import pytest

from benchmarks import load
from benchmarks.load import Measurements, load_clock

BUSY = "import time; end = time.time() + {}\nwhile time.time() < end: pass"
needs_proc = pytest.mark.skipif(load_clock() is None, reason="the load is known on Linux only")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Time and CPU seconds of others that move only when a test changes them."""
    now = {"time": 0.0, "busy": 0.0}
    monkeypatch.setattr(load.time, "perf_counter", lambda: now["time"])
    monkeypatch.setattr(load.time, "sleep", partial(spend, now, cores_of_others=0))
    monkeypatch.setattr(load, "load_clock", lambda: now["busy"])
    monkeypatch.setattr(load, "_reap_orphans", lambda: None)
    return now


def spend(clock: dict[str, float], seconds: float, cores_of_others: float) -> None:
    clock.update(time=clock["time"] + seconds, busy=clock["busy"] + seconds * cores_of_others)


def test_a_quiet_measurement_is_done_once(clock: dict[str, float]) -> None:
    measure = Measurements(limit=0.1)
    assert measure(lambda: spend(clock, 2, 0.05) or "result") == "result"
    assert measure.loads == pytest.approx([0.05])
    assert (measure.num_repeated, measure.num_disturbed) == (0, 0)


def test_a_disturbed_measurement_is_repeated_until_it_is_quiet(clock: dict[str, float]) -> None:
    measure, loads = Measurements(limit=0.1), iter([1.0, 0.5, 0.0])
    numbers = count()
    assert measure(lambda: spend(clock, 2, next(loads)) or next(numbers)) == 2
    assert (measure.loads, measure.num_repeated, measure.num_disturbed) == ([0.0], 2, 0)


def test_the_least_disturbed_attempt_counts_where_none_is_quiet(clock: dict[str, float]) -> None:
    measure, loads = Measurements(limit=0.1), iter([1.0, 0.4, 0.9, 0.8, 0.7, 0.6])
    numbers: Iterator[int] = count()
    assert measure(lambda: spend(clock, 2, next(loads)) or next(numbers)) == 1
    assert measure.loads == pytest.approx([0.4])
    assert measure.num_disturbed == 1
    assert "at most 0.40" in str(measure)
    assert "disturbed in every attempt: 1" in str(measure)


def test_a_measurement_waits_for_a_quiet_moment(clock: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:  # others are busy until 30 s
        spend(clock, seconds, 1.0 if clock["time"] < 30 else 0.0)

    monkeypatch.setattr(load.time, "sleep", sleep)
    measure = Measurements(limit=0.1)
    measure(spend, clock, 2, 0)
    assert clock["time"] == pytest.approx(30.5 + 2)
    assert (measure.loads, measure.num_repeated) == ([0.0], 0)


@needs_proc
def test_the_work_of_children_is_not_load_of_others() -> None:
    before = load._own_ticks()
    subprocess.run([sys.executable, "-c", BUSY.format(1)], check=True)
    assert (load._own_ticks() - before) / load.os.sysconf("SC_CLK_TCK") > 0.5


@needs_proc
def test_the_work_of_a_child_whose_parent_has_ended_is_not_load_of_others() -> None:
    """A fork server is such a process: its parent ends without waiting for it."""
    script = f"""if True:
        import subprocess, sys
        from benchmarks.load import Measurements, _own_ticks, adopt_orphans
        adopt_orphans()
        measure, before = Measurements(limit=float("inf")), _own_ticks()
        orphan = [sys.executable, "-c", {BUSY.format(1)!r}]
        parent = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).pid"
        read_to_its_end = {{"stdout": subprocess.PIPE, "check": True}}  # the orphan holds the pipe until it ends
        measure(subprocess.run, [sys.executable, "-c", parent, *orphan], **read_to_its_end)
        print(_own_ticks() - before)
    """
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) / load.os.sysconf("SC_CLK_TCK") > 0.5


@needs_proc
def test_the_work_of_an_unrelated_process_is_load_of_others() -> None:
    # `setsid` and the end of the shell make it a child of another process.
    subprocess.run(["sh", "-c", 'setsid "$0" -c "$1" &', sys.executable, BUSY.format(2)], check=True)
    time.sleep(0.3)
    started, before = time.perf_counter(), load_clock()
    time.sleep(1)
    after = load_clock()
    assert before is not None
    assert after is not None
    assert (after - before) / (time.perf_counter() - started) > 0.3
