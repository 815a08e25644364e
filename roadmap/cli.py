"""The command line: Hydra composes, the spec is checked, the run runs. Every user's mistake ends in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from roadmap.config.compose import CONFIG_ERRORS, one_line_message, register_schema, rewrite_study_override, to_spec
from roadmap.config.paths import CONF
from roadmap.records.record import COMPLETED
from roadmap.runtime.signals import EXIT_STOPPED, Stopped, raise_on_signal
from roadmap.sweep import sweeper
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.launchers import run_as_job
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.single import run_single

FAILED, MISTAKE = 1, 2  # exit codes: a run failed or diverged; nothing was started. After a signal: stop.STOPPED

SHOW_ALL = "ROADMAP_FULL_ERROR"  # HYDRA_FULL_ERROR=1 as the user set it: show the traceback of a mistake


def main() -> None:
    """Run what the command line asks for and exit: 0, 1 if a run failed or diverged, 2 for a mistake in the words, 75
    after a signal that asked it to stop."""
    raise_on_signal()
    # How long threads spin while they wait for one another, before they sleep. As libgomp has it, a run of two threads
    # falls from 4,000 images/s to below 100 when another process uses one of its cores; so to 1,000 at no cost else.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # Under `uv run` Ray would have every worker set up an environment of its own, and wait for it.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    register_schema()
    sweeper.register_sweeper()
    os.environ.setdefault(SHOW_ALL, os.environ.get("HYDRA_FULL_ERROR", "0"))
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here instead of to Hydra's own printer
    if any(word == "-c" or word.startswith("--cfg") for word in sys.argv) and "--resolve" not in sys.argv:
        sys.argv.append("--resolve")
    sys.argv[1:] = rewrite_study_override(sys.argv[1:])
    with exit_codes():
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run)()


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what may go wrong into one line and an exit code."""
    try:
        yield
    except (*CONFIG_ERRORS, ValueError) as error:
        if os.environ.get(SHOW_ALL) == "1":
            raise
        print(f"error: {one_line_message(error)}", file=sys.stderr)
        sys.exit(MISTAKE)
    except RunFailed as error:
        print(error, file=sys.stderr)
        sys.exit(FAILED)
    except (Stopped, KeyboardInterrupt) as stopped:
        print(stopped or "stopped", file=sys.stderr)
        sys.exit(EXIT_STOPPED)


def run(config: DictConfig) -> str:
    """Hydra's task function: one run, alone or as a job of a sweep; its status."""
    hydra_config = HydraConfig.get()
    words = list(hydra_config.overrides.task)
    if hydra_config.mode is RunMode.MULTIRUN:
        return run_as_job(PlannedRun(to_spec(config), words), hydra_config.job.num)
    with exit_codes():  # here already: Hydra prints a line of its own before it passes an error on
        run_single(PlannedRun(to_spec(config), words))
    return COMPLETED
