"""Errors of Hydra, OmegaConf and YAML in one line that names the field, what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import re
import traceback
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.errors import HydraException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from roadmap.config import paths
from roadmap.config.files import circular_files, config_names, shown_path, yaml_reason
from roadmap.config.names import printable, suggest
from roadmap.config.schema import RunSpec, SpecError

LIST_GROUPS = ("transform", "ingredient")  # a run can have several of them, as +transform=[a,b]
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, SpecError)
LAUNCHERS = ("submitit_slurm", "submitit_local", "ray")  # hydra/launcher=...; see roadmap.sweep.launchers


def is_config_error(error: BaseException) -> bool:
    """Return whether the user's input caused the error: its type is in CONFIG_ERRORS, or Hydra or OmegaConf raised it.

    For some mistakes these raise a plain ValueError or AssertionError, and for a damaged file an error of YAML. The
    same errors from our own code are bugs.
    """
    if isinstance(error, CONFIG_ERRORS):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    raised_in = frames[-1].f_globals.get("__name__", "").split(".")[0] if frames else ""
    if isinstance(error, (ValueError, AssertionError)) and raised_in in ("hydra", "omegaconf"):
        return True
    if isinstance(error, RecursionError):
        return any(frame.f_globals.get("__name__", "").startswith("hydra.") for frame in frames)
    return isinstance(error, (yaml.YAMLError, UnicodeDecodeError, OSError)) and _file_in_hydra(error) is not None


def one_line_message(error: BaseException) -> str:
    """Return an error of the configuration as one line that names the field. Hydra's own messages have many lines."""
    cause: BaseException = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, CONFIG_ERRORS):
        cause = cause.__cause__
    return printable(_message(error, cause))


def _message(error: BaseException, cause: BaseException) -> str:
    if isinstance(cause, SpecError):
        return str(cause)
    if isinstance(error, RecursionError):
        files = ", ".join(circular_files()) or "a config"
        return f"{files}: includes itself in its list of defaults, directly or through others; remove that entry"
    if isinstance(error, (yaml.YAMLError, UnicodeDecodeError, OSError)) and (path := _file_in_hydra(error)):
        reason = error.strerror if isinstance(error, OSError) else yaml_reason(error)
        return f"{shown_path(path)}: {reason}"
    if isinstance(error, OverrideParseException):
        advice = "write field=value; quote special characters as field='\"a b\"'"
        override = str(error.override)
        shown = override if override == override.strip() else repr(override)  # a space at an end would not be seen
        return f"{shown}: is not a valid override; {advice}"
    outer, inner = str(error).strip(), str(cause).strip()
    return _missing_config(outer) or _wrong_value(outer, inner) or re.sub(r"\s+", " ", inner.split("\n    full_key")[0])


def unknown_launcher(name: str) -> str:
    """Return the message for a launcher that is not supported."""
    return f"hydra/launcher={name}: unknown; use {', '.join(LAUNCHERS)}, or leave hydra/launcher out"


def _file_in_hydra(error: BaseException) -> Path | None:
    """Return the config file that Hydra was reading when the error was raised."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "load_config" and "full_path" in frame.f_locals:
            return Path(frame.f_locals["full_path"])
    return None


def _missing_config(outer: str) -> str | None:
    """Return the message for a group or a choice of a group that does not exist."""
    missing = re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", outer)
    if missing:
        group, name = missing.groups()
        if group == "hydra/launcher":
            if name not in LAUNCHERS:
                return unknown_launcher(name)
            extra = "ray" if name == "ray" else "slurm"
            return f"hydra/launcher={name}: is not installed; install it with pip install 'roadmap[{extra}]'"
        known = config_names(group) or re.findall(r"\n\t(\w+)(?=\n)", outer)
        included_by = re.match(r"In '(\w+/[^']+)'", outer)
        by = f" (in conf/{included_by[1]}.yaml)" if included_by else ""
        return f"{group}={name}: unknown{by}; {suggest(name, known)}"
    not_default = re.search(r"Could not override '([^']*)'.*?list use \+?(\S+)", outer, re.DOTALL)
    if not_default and "No match in the defaults list" in outer:
        key, override = not_default.groups()
        if key.split("@")[0] == "step" or config_names(key.split("@")[0]):
            return f"{override}: has no default to replace; write +{override}"
        return f"{override}: unknown field or group; {suggest(key, [*_groups(), *field_paths('')])}"
    multiple = re.search(r"Multiple values for (\S+)\.", outer)
    if multiple:
        name = multiple[1]
        several = f"+{name}=[a,b]" if name in LIST_GROUPS else f"-m +{name}=a,b, a run for each"
        return f"{name}: given more than once; give it once, or several as {several}"
    ambiguous = re.search(r"Ambiguous value for argument '(.*?)'\n", outer)
    if ambiguous:
        key, _, values = ambiguous[1].partition("=")
        return f"{ambiguous[1]}: several values; add -m to train each of them, or write {key}=[{values}] for a list"
    return None


def _groups() -> list[str]:
    folders = (path for folder in paths.config_folders() for path in folder.iterdir() if path.is_dir())
    return sorted({"step", *(path.name for path in folders)})


def _wrong_value(outer: str, inner: str) -> str | None:
    """Return the message for an unknown field and for a value of the wrong type."""
    key = re.search(r"full_key: (\S+)", inner)
    unknown_key = re.search(r"Key '([^']*)' (?:not in|is not in struct)", inner)
    of_file = re.match(r"In '(\w+/[^']+)'", outer)
    if unknown_key:
        path = key.group(1) if key else unknown_key.group(1)
        if of_file:
            return f"conf/{of_file[1]}.yaml: {unknown_field(path)}"
        return unknown_field(path)
    deleted = re.search(r"Could not delete (?:from config\. )?'([^']+)'", inner)
    if deleted:
        return f"~{deleted[1]}: there is nothing to remove; leave it out"
    taken = re.search(r"An item is already at '([^']+)'", inner)
    if taken:
        return f"+{taken[1]}: exists already; write {taken[1]}=... without the +"
    if of_file and "Cannot merge DictConfig with ListConfig" in inner:
        return f"conf/{of_file[1]}.yaml: has a list in the place of a section; write its entries as NAME: VALUE"
    if not key:
        return None
    path = re.sub(r"\[\d+\]$", "", key.group(1))
    if re.search(r"Key .+ is incompatible with \(str\)", inner):
        return f"{path}: must be a name; write it in quotes"
    override = re.search(r"Error merging override (.+)$", outer, re.DOTALL)
    shown = f"{path}={override[1].split('=', 1)[1]}" if override and "=" in override[1] else path
    if "does not support deletion" in inner:
        return f"~{path}: a field of the schema cannot be removed; set it to another value"
    if "missing mandatory value" in inner or "Missing mandatory value" in inner:
        return f"{path}: is required; set {path}=..."
    if "interpolation" in inner.lower():
        return f"{path}: {inner.splitlines()[0]}"
    expected = expected_values(path)
    of_file = re.match(r"In '(\w+/[^']+)'", outer)
    shown = f"conf/{of_file[1]}.yaml: {shown}" if of_file else shown
    return f"{shown}: must be {expected}" if expected else None


def unknown_field(path: str) -> str:
    """Return the message for a field that does not exist."""
    if path.startswith("hydra"):
        return f"{path}: unknown field; roadmap --cfg hydra shows the fields"
    known = field_paths(path.rpartition(".")[0])
    return f"{path}: unknown field; {suggest(path, known) if known else f'add it as +{path}=...'}"


def field_paths(section: str) -> list[str]:
    """Return the paths of the fields in a section of the schema; for an unknown section, those of the top level.

    A section whose names the user chooses, such as tune.space, has none.
    """
    schema = field_type(section) if section else RunSpec
    if getattr(schema, "__origin__", None) is dict:
        return []
    if not dataclasses.is_dataclass(schema):
        section, schema = "", RunSpec
    return [f"{section}.{field.name}" if section else field.name for field in dataclasses.fields(schema)]


def field_type(path: str) -> Any:
    """Return the declared type of a field such as network.width, or None for an unknown field."""
    schema: Any = RunSpec
    for name in re.sub(r"\[\d+\]", "", path).split("."):
        schema = get_type_hints(schema).get(name) if dataclasses.is_dataclass(schema) else None
    return schema


def expected_values(path: str) -> str | None:
    """Return which values a field takes, for an error message; None for an unknown field."""
    declared = field_type(path)
    choices = getattr(declared, "__args__", ())
    or_null = ", or null" if type(None) in choices else ""
    if or_null:
        declared = next(choice for choice in choices if choice is not type(None))
    if isinstance(declared, type) and issubclass(declared, Enum):
        return "one of " + ", ".join(str(member.value) for member in declared) + or_null
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    lists = {"list[int]": "a list of whole numbers", "list[float]": "a list of numbers", "list[str]": "a list of names"}
    text = words.get(declared) or lists.get(str(declared))
    if text is None and dataclasses.is_dataclass(declared):
        text = f"a section; set its fields, as {path}.{dataclasses.fields(declared)[0].name}=..."
    if text is None and declared is not None:
        of_transforms = "a section that the transforms fill in; use +transform=NAME"
        text = of_transforms if path == "transforms" else f"a section; add its entries, as +{path}.NAME=..."
    return text + or_null if text else None
