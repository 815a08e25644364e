"""evaluation.json in a run's folder: what `roadmap evaluate` measured on the run's own test set."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EVALUATION_NAME = "evaluation.json"


def read_evaluation(folder: Path, name: str = EVALUATION_NAME) -> dict[str, Any] | None:
    """Return the content of the file, or None if there is none that can be used."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if _is_valid(content) else None


def _is_valid(content: Any) -> bool:
    if not isinstance(content, Mapping):
        return False
    latency = content.get("latency", {})
    values = [content.get("top1"), content.get("corrupted_top1", 0.0), content.get("calibration_error", 0.0)]
    values.append(latency.get("batch_1_ms", 0.0) if isinstance(latency, Mapping) else None)
    matrix = content.get("confusion_matrix", [])
    is_matrix = isinstance(matrix, list) and all(isinstance(row, list) and len(row) == len(matrix) for row in matrix)
    return is_matrix and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
