"""`python -m roadmap.report`: the same as `roadmap report`."""

from __future__ import annotations

import sys

from roadmap.commands import report_command

if __name__ == "__main__":
    sys.exit(report_command(sys.argv[1:]))
