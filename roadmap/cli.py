"""The command line: `python run_roadmap.py`, `python -m roadmap` and the console script `roadmap`.

With Hydra overrides, one run or a sweep is composed, checked and trained. With a subcommand as the first argument
(see `SUBCOMMANDS`), that subcommand runs. Bad input ends with one line on standard error and exit code 2. A bug shows
its traceback, with exit code 1.

This module itself imports only small modules. A signal during the slow imports, which follow, therefore ends the
command with one line and exit code 75.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from roadmap import __version__
from roadmap.runtime.exit_codes import EXIT_BAD_INPUT, EXIT_RUN_FAILED, EXIT_STOPPED
from roadmap.runtime.signals import Stopped, exit_on_signal, raise_on_signal
from roadmap.runtime.streams import discard_output, prepare_streams

# Subcommand -> module and function, which is imported when the subcommand is called.
SUBCOMMANDS = {
    "report": "roadmap.commands.report:report_command",
    "cost": "roadmap.cost:cost_command",
    "results": "roadmap.commands.results:results_command",
    "log_records": "roadmap.log_records:log_records_command",
    "runs": "roadmap.commands.runs:runs_command",
    "watch": "roadmap.commands.watch:watch_command",
    "predict": "roadmap.commands.predict:predict_command",
    "export": "roadmap.commands.export:export_command",
    "evaluate": "roadmap.commands.evaluate:evaluate_command",
    "doctor": "roadmap.commands.doctor:doctor_command",
}


def main(arguments: list[str] | None = None) -> None:
    """Run what `arguments` (by default those of the process) ask for and exit.

    Exit codes: 0; 1 if a run failed or diverged, or after an error of the operating system; 2 for bad input; 75 after a
    stop signal.
    """
    exit_on_signal()
    prepare_streams()
    if arguments is not None:
        sys.argv[1:] = arguments
    with exit_codes(show_traceback=os.environ.get("HYDRA_FULL_ERROR") == "1"):
        code = 0
        if "--version" in sys.argv[1:]:
            print(f"roadmap {__version__}")
        elif sys.argv[1:] and re.fullmatch(r"[a-z_]+", sys.argv[1]):
            code = _run_subcommand(*sys.argv[1:])
        else:
            _run_overrides()
        sys.stdout.flush()  # here, so that a full disk or a closed pipe is one of the errors that are handled
        sys.exit(code)


@contextmanager
def exit_codes(show_traceback: bool = False) -> Iterator[None]:
    """Turn the errors that a command may raise into one line on standard error and an exit code."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        _exit(str(stopped) or "stopped", EXIT_STOPPED)
    except Exception as error:
        from roadmap.config.messages import is_config_error, one_line_message
        from roadmap.runtime.files import describe_os_error
        from roadmap.sweep.errors import RunFailed

        if isinstance(error, BrokenPipeError):  # `roadmap report ... | head`
            discard_output()
            sys.exit(EXIT_RUN_FAILED)
        if isinstance(error, RunFailed):
            _exit(str(error), EXIT_RUN_FAILED)
        if is_config_error(error) and not show_traceback:  # before OSError: some of Hydra's errors are both
            _exit(f"error: {one_line_message(error)}", EXIT_BAD_INPUT)
        if isinstance(error, OSError) and not show_traceback:
            _exit(f"error: {describe_os_error(error)}", EXIT_RUN_FAILED)
        raise


def _exit(message: str, code: int) -> None:
    try:
        sys.stdout.flush()
    except OSError:
        discard_output()
    print(message, file=sys.stderr)
    sys.exit(code)


def _run_overrides() -> None:
    """Run Hydra's application: compose, check and train what the overrides ask for."""
    _set_environment_defaults()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from roadmap.config import paths
    from roadmap.config.compose import register_schema, to_spec
    from roadmap.config.overrides import (
        accept_step,
        check_arguments,
        check_overrides,
        describe_study_sweep,
        rewrite_study_override,
    )
    from roadmap.config.selection import choose_folders, choose_for_completion, choose_roadmap, search_path_overrides
    from roadmap.config.tuned import with_tuned
    from roadmap.runtime.logs import configure_logging
    from roadmap.sweep.planned_run import PlannedRun
    from roadmap.sweep.single import run_single

    configure_logging()
    register_schema()
    roadmap, arguments = choose_roadmap(accept_step(check_arguments(choose_folders(sys.argv[1:]))))
    check_overrides([word for word in arguments if re.match(r"~|[^-][^=]*=|=", word)], roadmap)
    if any(argument == "-c" or argument.startswith("--cfg") for argument in arguments):
        for line in describe_study_sweep(arguments):
            print(f"# {line}")
        arguments = ["--resolve", *arguments] if "job" in arguments or "--cfg=job" in arguments else arguments
    sys.argv[1:] = [*rewrite_study_override(with_tuned(arguments)), *search_path_overrides()]
    if "COMP_LINE" in os.environ:  # a shell asks for completions
        choose_for_completion(os.environ["COMP_LINE"])
        sys.argv[1:] = [*arguments, *(f"--config-dir={folder}" for folder in paths.own_folders()[:1])]
    errors: list[BaseException] = []

    def task(config: DictConfig) -> None:
        """Hydra's task function, which it calls for a command without a sweep."""
        try:
            overrides = list(HydraConfig.get().overrides.task)
            run_single(PlannedRun(to_spec(config), overrides, folders=paths.own_arguments()))
        except BaseException as error:  # Hydra prints a line of its own when the task raises an error
            errors.append(error)

    raise_on_signal()
    hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(task)()
    if errors:
        raise errors[0]


def _set_environment_defaults() -> None:
    """Set environment variables of other libraries, before they are imported."""
    # How long OpenMP threads spin before they sleep. With libgomp's default, a run of two threads falls from 4,000
    # images/s to below 100 when another process uses one of its cores; with this value to 1,000, at no cost otherwise.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
    # Under `uv run`, Ray would otherwise set up an environment for every worker, and wait for it.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def _run_subcommand(name: str, *arguments: str) -> int:
    from roadmap.config.schema import SpecError
    from roadmap.runtime.logs import configure_logging

    if name not in SUBCOMMANDS:
        known = ", ".join(SUBCOMMANDS)
        raise SpecError(f"{name}: unknown subcommand; use {known}, or overrides as field=value")
    module, _, function = SUBCOMMANDS[name].partition(":")
    command = getattr(import_module(module), function)
    configure_logging()
    raise_on_signal()
    code: int = command(list(arguments))
    return code
