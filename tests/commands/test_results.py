"""`roadmap results`: tables of a study's runs as Parquet and CSV, read back by pandas and DuckDB."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from roadmap.analysis.results import CURVE, KEYS, RESULTS
from roadmap.commands.results import results_command
from roadmap.config.schema import SpecError
from roadmap.records.record import run_folder
from tests.commands.experiments import make_experiments
from tests.conftest import ROOT
from tests.helpers import call_main

PUBLISHED = ROOT / "reports" / "fashion_mnist" / "roadmap"


def records_of(study: Path) -> dict[str, dict[str, Any]]:
    runs = json.loads((study / "study.json").read_text("utf-8"))["runs"]
    return {run: json.loads((study.parent / "runs" / run / "record.json").read_text("utf-8")) for run in runs}


def test_the_tables_have_the_values_of_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "results.parquet"
    assert results_command([str(PUBLISHED), "--to", str(path)]) == 0
    assert f"{path}: 190 rows" in capsys.readouterr().out
    records = records_of(PUBLISHED)
    runs = pd.read_parquet(path).set_index("run")
    assert sorted(runs.index) == sorted(records)
    for run, record in records.items():
        row = runs.loc[run]
        for name in ("seed", "top1", "top5", "loss", "params", "gmacs", "wall_seconds", "started_at", "command"):
            assert row[name] == record[name], name
        assert row["step"] == record["name"] and row["transforms"].split(",")[-1] in ("", record["name"])
        assert row["config.recipe.lr"] == record["config"]["recipe"]["lr"]
        assert json.loads(str(row["config.network.depths"])) == record["config"]["network"]["depths"]
        assert row["versions.torch"] == record["versions"]["torch"] and row["git.dirty"] == record["git"]["dirty"]
    epochs = pd.read_parquet(tmp_path / "new" / "results_epochs.parquet")
    assert len(epochs) == sum(len(record["curve"]) for record in records.values())
    for run, curve in epochs.groupby("run"):
        assert curve["train_loss"].tolist() == [point["train_loss"] for point in records[str(run)]["curve"]]
        assert curve["test_top1"].iloc[-1] == records[str(run)]["curve"][-1]["test_top1"]


def test_duckdb_reads_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    results_command([str(PUBLISHED), "--to", str(path)])
    query = f"select avg(top1), count(*) from '{path}' where step = 'gelu' and status = 'completed'"
    mean, count = duckdb.connect().execute(query).fetchall()[0]
    expected = [record["top1"] for record in records_of(PUBLISHED).values() if record["name"] == "gelu"]
    assert count == 10 and mean == pytest.approx(sum(expected) / 10)
    best = f"select run, max(test_top1) from '{tmp_path / 'results_epochs.parquet'}' group by run"
    assert len(duckdb.connect().execute(best).fetchall()) == 190


def test_failed_runs_have_a_row_and_their_types_do_not_depend_on_the_runs(tmp_path: Path) -> None:
    specs = make_experiments(tmp_path / "experiments")
    path = tmp_path / "results.parquet"
    results_command([str(tmp_path / "experiments" / "mine"), "--to", str(path)])
    runs = pd.read_parquet(path)
    assert dict(zip(runs["run"], runs["status"], strict=True)) == {
        run_folder(specs[status]).name: status for status in ("completed", "diverged", "failed")
    }
    failed = runs[runs["status"] == "failed"].iloc[0]
    assert failed["error"] == "MemoryError: too [red] large" and pd.isna(failed["top1"])
    assert runs["model_flops_utilization"].dtype == "Float64" and runs["model_flops_utilization"].isna().all()


def test_csv_files_have_the_same_columns(tmp_path: Path) -> None:
    for name in ("results.csv", "results.parquet"):
        results_command([str(PUBLISHED), "--to", str(tmp_path / name)])
    for stem in ("results", "results_epochs"):
        columns = [list(pd.read_csv(tmp_path / f"{stem}.csv")), list(pd.read_parquet(tmp_path / f"{stem}.parquet"))]
        assert columns[0] == columns[1] and columns[0][: len(KEYS)] == KEYS


def test_bad_targets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for target, message in (
        ("results.xlsx", "--to=results.xlsx: must end with .parquet or .csv"),
        ("/dev/null/results.csv", "--to=/dev/null: /dev/null is not a writable folder; use another folder"),
    ):
        refused = call_main("results", str(PUBLISHED), "--to", target)
        assert refused.code == 2 and refused.err == f"error: {message}\n"
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(SpecError, match="is a folder; give the name of a file"):
        results_command([str(PUBLISHED), "--to", str(tmp_path / "a.csv")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SpecError, match=r"needs pyarrow; pip install 'roadmap\[parquet\]', or give a .csv file"):
        results_command([str(PUBLISHED), "--to", str(tmp_path / "b.parquet")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_every_column_is_documented() -> None:
    page = (ROOT / "docs" / "integrations.md").read_text("utf-8")
    assert [name for name in (*KEYS, *RESULTS, "transforms", *CURVE) if f"`{name}`" not in page] == []
