"""The command line: `python run_roadmap.py`, `python -m roadmap` and the console script `roadmap`.

With Hydra overrides, one run or a sweep is composed, checked and trained. With a subcommand as the first argument
(`report`, `cost`), that tool runs. Bad input ends with one line on standard error and exit code 2.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from roadmap.config.compose import CONFIG_ERRORS, one_line_message, register_schema, rewrite_study_override, to_spec
from roadmap.config.paths import CONF
from roadmap.runtime.exit_codes import EXIT_BAD_INPUT, EXIT_RUN_FAILED, EXIT_STOPPED
from roadmap.runtime.logs import configure_logging
from roadmap.runtime.signals import Stopped, raise_on_signal
from roadmap.sweep.errors import RunFailed
from roadmap.sweep.planned_run import PlannedRun
from roadmap.sweep.single import run_single


def main() -> None:
    """Run what the command line asks for and exit: 0; 1 if a run failed or diverged; 2 for bad input; 75 after a signal
    that asked to stop."""
    raise_on_signal()
    configure_logging()
    show_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    if sys.argv[1:] and re.fullmatch(r"[a-z_]+", sys.argv[1]):
        with exit_codes(show_traceback):
            sys.exit(_run_subcommand(*sys.argv[1:]))
    _set_environment_defaults()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    register_schema()
    if any(word == "-c" or word.startswith("--cfg") for word in sys.argv) and "--resolve" not in sys.argv:
        sys.argv.append("--resolve")
    sys.argv[1:] = rewrite_study_override(sys.argv[1:])

    def task(config: DictConfig) -> None:
        """Hydra's task function, which it calls for a command without a sweep."""
        with exit_codes(show_traceback):  # inside of Hydra, which prints a line of its own before it passes errors on
            run_single(PlannedRun(to_spec(config), list(HydraConfig.get().overrides.task)))

    with exit_codes(show_traceback):
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(task)()


@contextmanager
def exit_codes(show_traceback: bool = False) -> Iterator[None]:
    """Turn the errors that a command may raise into one line on standard error and an exit code."""
    try:
        yield
    except (*CONFIG_ERRORS, ValueError) as error:
        if show_traceback:
            raise
        print(f"error: {one_line_message(error)}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except RunFailed as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_RUN_FAILED)
    except (Stopped, KeyboardInterrupt) as stopped:
        print(stopped or "stopped", file=sys.stderr)
        sys.exit(EXIT_STOPPED)


def _set_environment_defaults() -> None:
    """Set environment variables of other libraries, before they are imported."""
    # How long OpenMP threads spin before they sleep. With libgomp's default, a run of two threads falls from 4,000
    # images/s to below 100 when another process uses one of its cores; with this value to 1,000, at no cost otherwise.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # Under `uv run`, Ray would otherwise set up an environment for every worker, and wait for it.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def _run_subcommand(name: str, *arguments: str) -> int:
    if name not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        raise ValueError(f"{name}: unknown subcommand; use {known}, or overrides as field=value")
    return SUBCOMMANDS[name](list(arguments))


def _report(arguments: list[str]) -> int:
    from roadmap.commands import report_command

    return report_command(arguments)


def _cost(arguments: list[str]) -> int:
    from roadmap.cost import cost_command

    return cost_command(arguments)


SUBCOMMANDS: dict[str, Callable[[list[str]], int]] = {"report": _report, "cost": _cost}
