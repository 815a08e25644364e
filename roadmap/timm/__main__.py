"""`python -m roadmap.timm SCRIPT ...`: run a script, such as timm's train.py, that can create our networks by name."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import roadmap.timm  # noqa: F401  registers the names

if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file():
    given = f"{sys.argv[1]}: no such file" if len(sys.argv) > 1 else "no script given"
    print(f"error: {given}; use python -m roadmap.timm SCRIPT.py [OPTIONS]", file=sys.stderr)
    sys.exit(2)
sys.argv = sys.argv[1:]
sys.path[0] = str(Path(sys.argv[0]).absolute().parent)
runpy.run_path(sys.argv[0], run_name="__main__")
