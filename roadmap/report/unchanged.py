"""Notes on changes that have no effect with a base, data or budget."""

from __future__ import annotations

from typing import Any

from roadmap.analysis.table import Row, Study
from roadmap.records.record import DATA_NOT_HASHED, NOT_HASHED


def unchanged_lines(study: Study) -> list[str]:
    """Return notes on the changes that have no effect with this base, data or budget; empty if there are none."""
    equal = [i for i in range(len(study.rows)) if _has_equal_losses(study, i) and not changes_only_average(study, i)]
    repeated = [i for i in range(len(study.rows)) if i not in equal and _is_same_training(study, i)]
    notes = {
        "Changes without effect (every run ends with the loss of the run it is compared with)": equal,
        "Changes without effect (the resolved configs are equal, so the gain only shows how much the results of equal"
        " runs differ, for example between processors)": repeated,
    }
    return [f"{note}: {'; '.join(study.rows[i].label for i in rows)}." for note, rows in notes.items() if rows]


def changes_only_average(study: Study, i: int) -> bool:
    """Return whether row `i` and the compared row differ only in the moving average of the weights."""
    rows = [study.rows[number] for number in (i, study.against[i]) if number is not None]
    averages = {row.records[0]["config"]["recipe"].get("ema_decay") for row in rows}
    return len(averages) > 1 and _has_equal_losses(study, i)


def _has_equal_losses(study: Study, i: int) -> bool:
    """Return whether every run of row `i` ends with exactly the loss of the compared row's run with the same seed."""
    against = study.against[i]
    if against is None:
        return False
    losses, other_losses = (
        {record["seed"]: record.get("loss") for record in row.completed} for row in (study.rows[i], study.rows[against])
    )
    return bool(losses) and None not in losses.values() and losses.items() <= other_losses.items()


def _is_same_training(study: Study, i: int) -> bool:
    """Return whether row `i` and the compared row have the same resolved config, except for names."""
    against = study.against[i]
    return against is not None and _training_config(study.rows[i]) == _training_config(study.rows[against])


def _training_config(row: Row) -> dict[str, Any]:
    """Return what a training does, without the names of recipe and transforms, from the row's first record."""
    config: dict[str, Any] = row.records[0]["config"]
    sections = {key: value for key, value in config.items() if key not in (*NOT_HASHED, "transforms")}
    for section, names in (("recipe", ("name",)), ("data", DATA_NOT_HASHED)):
        sections[section] = {key: value for key, value in config[section].items() if key not in names}
    return sections
