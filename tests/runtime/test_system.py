"""Facts about the installation that records contain."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

PRINT_GIT_STATE = "import json; from roadmap.runtime.system import git_state; print(json.dumps(git_state()))"


def test_a_checkout_is_dirty_by_its_code_and_configs_not_by_other_files(tmp_path: Path) -> None:
    for name in ("roadmap", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run_roadmap.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)

    def output(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    def is_dirty() -> bool:
        state = json.loads(output(sys.executable, "-c", PRINT_GIT_STATE))
        assert state["commit"] == output("git", "rev-parse", "HEAD")
        return bool(state["dirty"])

    output("git", "init", "-q")
    output("git", "add", ".")
    output("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all")
    (tmp_path / "README.md").write_text("changed")
    assert not is_dirty()
    for name in ("run_roadmap.py", "conf/config.yaml", "roadmap/records/record.py"):
        before = (tmp_path / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(before + "\n", encoding="utf-8")
        assert is_dirty(), name
        (tmp_path / name).write_text(before, encoding="utf-8")
    assert not is_dirty()
