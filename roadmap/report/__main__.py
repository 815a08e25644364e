"""`python -m roadmap.report`: the same as `roadmap report`."""

from __future__ import annotations

import sys

from roadmap.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
