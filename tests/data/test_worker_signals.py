"""SIGTERM to the workers of a loader: it ends them only if the run that started them sends it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest

from roadmap.data import loaders


def act_as_worker(ready: Connection) -> None:
    loaders.block_foreign_sigterm(0)
    ready.send("ready")
    time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="loaders fork on Linux only")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_ignores_sigterm_of_other_processes() -> None:
    ours, theirs = multiprocessing.Pipe()
    worker = multiprocessing.get_context("fork").Process(target=act_as_worker, args=(theirs,))
    worker.start()
    assert ours.poll(20) and ours.recv() == "ready" and worker.pid is not None
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)  # like a cluster, which signals all processes
    worker.join(0.5)
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)  # the run that started it
    worker.join(20)
    assert worker.exitcode == 0
