"""The published studies and the pages that describe them."""

from __future__ import annotations

import json
from pathlib import Path

from roadmap.config.choices import Design
from roadmap.config.tuned import BEST_NAME
from roadmap.records.manifest import Manifest, read_manifest
from roadmap.records.record import RUNS_FOLDER
from roadmap.report.search import RESULT_NAME
from tests.conftest import ROOT

STUDY_FILES = (ROOT / "reports").glob("*/*/study.json")
ALL = sorted(path.parent for path in STUDY_FILES if path.parent.name != RUNS_FOLDER)
TUNED = [study for study in ALL if (study / BEST_NAME).is_file()]  # their table is that of the trials
RACES = [
    study for study in ALL if json.loads((study / "study.json").read_text("utf-8"))["design"] == Design.search_race.name
]
TABLES = ("roadmap.csv", "roadmap.md", "roadmap.tex")
PUBLISHED = [study for study in ALL if (study / TABLES[0]).is_file()]
# Runs are missing, so there are no tables yet. A race never has tables.
UNFINISHED = [study for study in ALL if study not in (*TUNED, *RACES, *PUBLISHED)]
SEARCHES = [study for study in PUBLISHED if (study / RESULT_NAME).is_file()]
OTHERS = [study for study in PUBLISHED if study.with_name(study.name.removesuffix("-found")) not in SEARCHES]
PAGES = (
    *("reports/README.md", "reports/fashion_mnist/README.md", "reports/digits/README.md"),
    *("docs/small-data.md", "README.md"),
)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
REPORTS = "\n".join(TEXTS.values())
TEXTS["README.md"] = TEXTS["README.md"].split("\n## Results\n")[1].split("\n## ")[0]


def manifest_of(study: Path) -> Manifest:
    manifest = read_manifest(study)
    assert manifest is not None and manifest.commands
    return manifest
