"""Reading of the YAML files of `conf/` without Hydra. Each error names the file in one line."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from roadmap.config import paths
from roadmap.config.names import printable
from roadmap.config.schema import SpecError

GLOBAL_PACKAGE = "# @package _global_"  # with this header, the fields of a file are paths from the root of the config


def shown_path(path: Path) -> str:
    """Return a path for a message, relative to the working directory if it is inside of it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def config_names(group: str) -> list[str]:
    """Return the names of the files in a folder of `conf/`."""
    return [path.stem for path in paths.config_files(group)]


def read_text(path: Path) -> str:
    """Return the content of a text file. Raises SpecError with the name of the file if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise SpecError(f"{shown_path(path)}: is not a file; delete it")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{shown_path(path)}: {error.strerror}; correct or delete the file") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{shown_path(path)}: {yaml_reason(error)}") from error


def read_yaml(path: Path, text: str | None = None) -> dict[str, Any]:
    """Return the fields of a YAML file, or of `text`, the content that a file of this name had.

    Raises SpecError with the name of the file if it cannot be read.
    """
    try:
        content = yaml.safe_load(read_text(path) if text is None else text)
    except SpecError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecError(f"{shown_path(path)}: {yaml_reason(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SpecError(f"{shown_path(path)}: must contain fields (field: value), not {type(content).__name__}")
    return {str(key): value for key, value in content.items()}


def read_global_yaml(path: Path, text: str | None = None) -> tuple[dict[str, Any], str]:
    """Return the fields and the text of a YAML file; see `read_yaml`.

    Raises SpecError also if the header GLOBAL_PACKAGE is missing.
    """
    text = read_text(path) if text is None else text
    content = read_yaml(path, text)
    lines = [line.replace(" ", "") for line in text.splitlines()]
    header = takewhile(lambda line: not line or line.startswith("#"), lines)  # Hydra reads no other lines
    if GLOBAL_PACKAGE.replace(" ", "") not in header:
        raise SpecError(f"{shown_path(path)}: needs the line {GLOBAL_PACKAGE} before its first field; add it")
    return content, text


def yaml_reason(error: BaseException) -> str:
    """Return why a file is not valid YAML, with the line if it is known."""
    if isinstance(error, UnicodeDecodeError):
        return "is not a text file in UTF-8; correct or delete it"
    if isinstance(error, RecursionError):
        return "its values are nested too deeply, or contain themselves; correct or delete it"
    mark = getattr(error, "problem_mark", None)
    where = f" in line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"is not valid YAML{where} ({printable(str(problem), 200)}); correct or delete the file"


def circular_files() -> list[str]:
    """Return the config files that include themselves, directly or through others; damaged files are skipped."""
    includes: dict[str, list[str]] = {}
    files = {f"{path.parent.name}/{path.stem}": path for path in _all_config_files()}
    for key, path in files.items():
        try:
            defaults = read_yaml(path).get("defaults")
        except SpecError:
            continue
        entries = defaults if isinstance(defaults, list) else []
        names = [entry if isinstance(entry, str) else _choice(entry) for entry in entries]
        group = path.parent.name
        includes[key] = [n.removeprefix("/") if "/" in n else f"{group}/{n}" for n in names]

    def reachable(name: str) -> set[str]:
        reached: set[str] = set()
        waiting = list(includes.get(name, ()))
        while waiting:
            other = waiting.pop()
            if other not in reached:
                reached.add(other)
                waiting += includes.get(other, ())
        return reached

    return [shown_path(files[name]) for name in includes if name in reachable(name)]


def _all_config_files() -> list[Path]:
    return [path for folder in reversed(paths.config_folders()) for path in sorted(folder.glob("*/*.yaml"))]


def _choice(entry: Any) -> str:
    """Return the config that an entry `override /GROUP: NAME` of a defaults list includes, as GROUP/NAME."""
    if not isinstance(entry, dict) or len(entry) != 1:
        return "_self_"
    (group, name), *_ = entry.items()
    return f"/{str(group).split()[-1].removeprefix('/')}/{name}"
