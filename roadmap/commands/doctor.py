"""The subcommand `roadmap doctor`: check the installation, the devices, the data and the folders of this machine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from roadmap.commands import doctor_checks
from roadmap.commands.doctor_checks import Finding
from roadmap.commands.tables import make_console
from roadmap.config.names import one_line
from roadmap.runtime.exit_codes import EXIT_COMPLETED, EXIT_RUN_FAILED

PROBE_SECONDS = 120.0  # after which the import of PyTorch and the search for devices count as blocked


def doctor_command(arguments: list[str]) -> int:
    """Print what is installed and found here; return 0, or 1 if something that every run needs is broken."""
    parser = argparse.ArgumentParser(
        prog="roadmap doctor",
        description="Print versions, devices, data, folders and launchers of this machine, and what is broken.",
        epilog="Nothing is written or downloaded. Please add the output to a bug report.",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, default=Path("experiments"), help="folder of experiments (%(default)s)")
    parser.add_argument("--reports", type=Path, default=Path("reports"), help="folder of reports (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    findings = [
        *doctor_checks.check_program(),
        *doctor_checks.check_packages(),
        *doctor_checks.check_machine(),
        *doctor_checks.check_torch(probe_torch()),
        *doctor_checks.check_data(),
        *doctor_checks.check_folders({"out": options.out, "reports": options.reports}),
        *doctor_checks.check_launchers(),
        *doctor_checks.check_environment(),
    ]
    is_usable = not any(finding.level == "error" for finding in findings)
    if options.json:
        print(json.dumps({"usable": is_usable, "findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        _print(findings)
    return EXIT_COMPLETED if is_usable else EXIT_RUN_FAILED


def probe_torch() -> dict[str, Any]:
    """Run `roadmap.commands.torch_probe` in a separate process; return its facts, or {"failed": reason}."""
    command = [sys.executable, "-m", "roadmap.commands.torch_probe"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {PROBE_SECONDS:.0f} s"}
    except OSError as error:
        return {"failed": str(error)}
    try:
        facts: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    return facts


def _print(findings: list[Finding]) -> None:
    console = make_console()
    section, num_errors = "", sum(finding.level == "error" for finding in findings)
    for finding in findings:
        if finding.section != section:
            console.print(f"{chr(10) if section else ''}{finding.section}", style="bold")
            section = finding.section
        console.print(_line(finding))
    problems = sorted((finding for finding in findings if finding.level != "ok"), key=lambda finding: finding.level)
    console.print("\nproblems" if problems else "\nno problems", style="bold")
    for finding in problems:
        console.print(f"  {finding.level}: {finding.name}: {one_line(finding.advice)}", soft_wrap=True)
    if num_errors:
        console.print("fix the errors before you train runs")


def _line(finding: Finding) -> Table:
    """Return mark, name and value; a long value wraps in its own column."""
    table = Table.grid(padding=(0, 1, 0, 0))
    for width in (1, 22, None):
        table.add_column(width=width, overflow="fold")
    table.add_row({"ok": " ", "warning": "!", "error": "x"}[finding.level], finding.name, one_line(finding.value))
    return table
