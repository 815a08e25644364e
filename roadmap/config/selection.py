"""The folders of configs and the roadmap that a command line chooses, made known to Hydra.

Hydra composes `conf/config.yaml`, whose defaults include `chosen_roadmap`: the name of the roadmap and its base. The
group `step` contains a config for each step of the roadmap. Both are generated here from the roadmap's file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from roadmap.config import paths
from roadmap.config.files import read_yaml, shown_path
from roadmap.config.names import printable
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import DEFAULT_ROADMAP, SpecError
from roadmap.config.transform_files import GROUPS

FOLDER_OPTIONS = ("--config-dir", "-cd")
SEARCH_PATH = "hydra.searchpath="
GLOBAL = "_global_"


def choose_folders(arguments: Sequence[str]) -> list[str]:
    """Use the folders of `--config-dir` and `hydra.searchpath`, and return the other arguments.

    Without these two, the folders of an earlier call stay in use. Raises SpecError for a folder that does not exist,
    and for a file with the name of a packaged config.
    """
    folders: list[Path] = []
    chosen: list[str] = []  # as typed, for commands that repeat a run
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option in FOLDER_OPTIONS:
            value = value if equals else next(words, "")
            folders.append(_existing_folder(value, option))
            chosen.append(f"--config-dir={value}")
        elif word.startswith(SEARCH_PATH):
            names = [name.strip().strip("'\"") for name in value.strip("[]").split(",")]
            folders += [_existing_folder(name, "hydra.searchpath") for name in names if name]
            chosen.append(word)
        else:
            rest.append(word)
    if chosen:
        for folder in folders:
            _check_folder(folder)
        paths.use_folders(folders, chosen)
    return rest


def _existing_folder(name: str, option: str) -> Path:
    """Return the folder that `name` stands for: a path, file://PATH, or pkg://PACKAGE."""
    scheme, _, location = name.rpartition("://")
    folder: Path | None = Path(location)
    if scheme == "pkg":
        try:
            found = find_spec(location.replace("/", "."))
        except (ImportError, ValueError):
            found = None
        locations = list(found.submodule_search_locations or []) if found is not None else []
        folder = Path(locations[0]) if locations else None
    if folder is None or not name or scheme not in ("", "file", "pkg") or not folder.is_dir():
        raise SpecError(f"{option}={printable(name, 200)}: no such folder; give a folder of configs, as conf")
    return folder


def _check_folder(folder: Path) -> None:
    """Raise SpecError for files of the user that would have no effect."""
    if folder.resolve() == paths.CONF.resolve():
        return
    if (folder / "step").is_dir():
        raise SpecError(f"{shown_path(folder / 'step')}: steps are entries of conf/roadmap/NAME.yaml; move them there")
    for path in sorted(folder.glob("*/*.yaml")):
        packaged = paths.CONF / path.parent.name / path.name
        if packaged.exists():
            kind = f"{path.parent.name}={path.stem}"
            raise SpecError(f"{shown_path(path)}: {kind} is a packaged config; rename the file")
        others = [other for other in GROUPS if other != path.parent.name] if path.parent.name in GROUPS else []
        if any((parent / other / path.name).exists() for parent in (paths.CONF, folder) for other in others):
            raise SpecError(f"{shown_path(path)}: {others[0]}={path.stem} has this name; rename the file")


def search_path_overrides() -> list[str]:
    """Return the override with which Hydra also searches the folders of the user."""
    quoted = (str(folder).replace("\\", "\\\\").replace('"', '\\"') for folder in paths.own_folders())
    folders = ",".join(f'"file://{folder}"' for folder in quoted)
    return [f"{SEARCH_PATH}[{folders}]"] if folders else []


def choose_roadmap(overrides: Sequence[str]) -> tuple[Roadmap, list[str]]:
    """Return the roadmap that the overrides choose, and the other overrides; make its steps known to Hydra.

    `roadmap=NAME` chooses it, or else the field `roadmap` of a chosen study or preset, or of a file that it includes.
    Raises SpecError for an unknown roadmap, and for more than one.
    """
    matches = [re.fullmatch(r"\+{0,2}roadmap=(.*)", override, re.DOTALL) for override in overrides]
    names = [match[1].strip("'\"") for match in matches if match is not None]
    rest = [override for override, match in zip(overrides, matches, strict=True) if match is None]
    if len(set(names)) > 1 or any(re.search(r"[,\[(*]", name) for name in names):
        raise SpecError(f"roadmap={printable(','.join(names), 100)}: one roadmap per command; run a command for each")
    name = names[0] if names else _roadmap_of_files(rest)
    roadmap = load_roadmap(name)
    _register(roadmap)
    return roadmap, rest


def choose_for_completion(line: str) -> None:
    """Choose folders and roadmap of `line`, the unfinished command whose completions a shell asks for; empty: none."""
    words = line.split()[1:]
    if not line.endswith(" "):  # the last word is not finished
        words = words[:-1]
    with suppress(SpecError):
        choose_roadmap(choose_folders(words))


def _roadmap_of_files(overrides: Sequence[str]) -> str:
    """Return the field `roadmap` of the studies and presets that the overrides include, or the default."""
    chosen = DEFAULT_ROADMAP
    for override in overrides:
        match = re.fullmatch(r"\+{1,2}(study|preset)=['\"]?([\w-]+)['\"]?", override)
        if match is not None:
            chosen = _roadmap_of_file(match[1], match[2], set()) or chosen
    return chosen


def _roadmap_of_file(group: str, name: str, read: set[str]) -> str | None:
    """Return the field `roadmap` of a file, or of the files of its group that it includes; None if they have none."""
    path = paths.find_config(group, name)
    if path is None or name in read:
        return None
    content = read_yaml(path)
    if isinstance(content.get("roadmap"), str):
        return str(content["roadmap"])
    defaults = content.get("defaults")
    included = [default for default in defaults if isinstance(default, str)] if isinstance(defaults, list) else []
    found = [_roadmap_of_file(group, other, {*read, name}) for other in included]
    return next((roadmap for roadmap in reversed(found) if roadmap is not None), None)


def check_roadmap(name: str) -> None:
    """Raise SpecError unless the composed roadmap `name` is the one whose steps Hydra knows.

    They differ if a study or a preset has the field `roadmap`, and the command line another one.
    """
    chosen = ConfigStore.instance().repo["chosen_roadmap.yaml"].node.roadmap
    if name != chosen:
        raise SpecError(f"roadmap={name}: a study or preset sets it, the command uses roadmap={chosen}; keep one")


def _register(roadmap: Roadmap) -> None:
    """Give Hydra a config for each step of the roadmap, and for the choice of the roadmap."""
    store = ConfigStore.instance()
    chosen = {"defaults": [{"base": roadmap.file.base}, "_self_"], "roadmap": roadmap.name}
    store.store(name="chosen_roadmap", node=chosen, package=GLOBAL)
    steps: dict[str, Any] = {}
    store.repo["step"] = steps
    nothing: dict[str, str] = {}
    for name in roadmap.errors:  # listed, so that glob(*) finds them; `overrides.check_files` raises their errors
        store.store(group="step", name=name, node=nothing, package=GLOBAL)
    for name, step in roadmap.steps.items():
        includes = [f"/{roadmap.transforms[other].group}/{other}" for other in step.transforms]
        store.store(group="step", name=name, node={"defaults": [*includes, "_self_"]}, package=GLOBAL)
