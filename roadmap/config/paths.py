"""Location of the configuration files."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parent.parent  # the folder `roadmap`
# An installed wheel contains `conf` in the package; in a checkout it is next to the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
