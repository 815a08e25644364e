"""Checks of the overrides as the user typed them, before Hydra composes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra.core.config_store import ConfigStore

from roadmap.config import paths
from roadmap.config.files import config_names, read_yaml
from roadmap.config.messages import LAUNCHERS, LIST_GROUPS, field_paths, field_type, unknown_launcher
from roadmap.config.names import STUDY_RULE, is_study_name, printable, suggest
from roadmap.config.roadmaps import Roadmap
from roadmap.config.schema import SpecError

NETWORK_OVERRIDE = re.compile(r"\+\+?(step|transform|ingredient)=")
# Options of Hydra that this command line accepts. The value of an option is the next word, or follows "=".
OPTIONS = (
    "--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--resolve", "--package", "-p", "--run", "-r",
    "--multirun", "-m", "--shell-completion", "-sc", "--config-path", "-cp", "--config-name", "-cn", "--config-dir",
    "-cd", "--info", "-i",
)  # fmt: skip
# The parts of Hydra's own config that can be set; the others would change where files are written, or have no effect.
HYDRA_OVERRIDE = re.compile(r"hydra/launcher|hydra\.launcher\.[\w.]+")


def check_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of the command line with the options first, as Hydra's parser needs them.

    Raises SpecError for an unknown option.
    """
    options: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        if argument.startswith("-") and not re.match(r"-?\d", argument):
            if argument.split("=")[0] not in OPTIONS:
                raise SpecError(f"{argument}: unknown option; use -m, --cfg job, --help or --hydra-help")
            options.append(argument)
        else:
            is_override = re.match(r"~|[^=]+=", argument)
            (overrides if is_override else options).append(argument)
    if options and not options[0].startswith("-"):  # a word that is neither an option, its value, nor an override
        raise SpecError(f"{options[0]}: is not a valid override; write field=value, +step=NAME or +study=NAME")
    _check_shown_config(options)
    if options and options[-1] in ("--info", "-i"):
        options.append("all")
    return [*options, *overrides]


def _check_shown_config(options: Sequence[str]) -> None:
    """Raise SpecError unless the values of --cfg and --package exist, and --package comes with --cfg."""
    values: dict[str, str] = {}
    for argument, following in zip(options, [*options[1:], ""], strict=False):
        option, equals, value = argument.partition("=")
        values[option] = value if equals else following
    shown, package = (values.get(name, values.get(name[1:3])) for name in ("--cfg", "--package"))
    if shown is not None and shown not in ("job", "hydra", "all"):
        raise SpecError(f"{f'--cfg {shown}'.strip()}: must be job, hydra or all; use --cfg job")
    if package is None:
        return
    if shown is None:
        raise SpecError("--package: shows a part of the config; use it with --cfg job")
    of_hydra = shown != "job" and re.match(r"hydra\b", package) is not None
    if field_type(package) is None and package != "_global_" and not of_hydra:
        raise SpecError(f"--package {package}: unknown section; {suggest(package, field_paths(''))}")


def check_overrides(overrides: Sequence[str], roadmap: Roadmap) -> None:
    """Raise SpecError for overrides that Hydra would misunderstand, or refuse with an unclear message."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if not key:
            raise SpecError(f"{override}: is not a valid override; write field=value, +step=NAME or +study=NAME")
        if re.match(r"hydra\b", key) and not HYDRA_OVERRIDE.fullmatch(key):
            raise SpecError(
                f"{override}: cannot be set; of hydra, only hydra/launcher and hydra.launcher.FIELD can be set"
            )
        if key.split(".")[0] == "transforms":
            raise SpecError(f"{override}: cannot be set; use +transform=NAME, whose file names the transform")
        if key in ("name", "label"):
            raise SpecError(f"{override}: cannot be set; the roadmap names the network")
        if override.startswith("~") and field_type(key) is not None:
            raise SpecError(f"{override}: cannot be removed; set {key}=... to another value")
        known = (
            [*roadmap.steps, *roadmap.errors]
            if key == "step"
            else config_names(key)
            if re.fullmatch(r"\w+", key)
            else []
        )
        is_word = re.fullmatch(r"null|true|false|[-+.\d]*|\{.*\}", value.lower()) is None
        if known and not is_word and not override.startswith(("~", "study=")):
            raise SpecError(f"{key}={value}: must be the name of a config; use one of {', '.join(known)}")
        if known and key not in (*LIST_GROUPS, "study") and value.startswith("["):
            sign, values = "+" if override[0] == "+" else "", value.strip("[]").replace(" ", "")
            raise SpecError(f"{override}: one {key} per run; to train a run for each, write -m {sign}{key}={values}")
        is_number = re.fullmatch(r"[-+]?[\d._]+(e[-+]?\d+)?", value.lower())
        if is_number and value not in ("0", "1") and field_type(key) is bool:
            raise SpecError(f"{key}={value}: must be true or false")
        if key == "logger" and re.fullmatch(r"\w+(,\w+)+", value):
            raise SpecError(f"{key}={value}: give several trackers as logger=[{value}]")
        if key == "hydra/launcher" and override[0] != "~":
            names = [name for name in value.split(",") if name not in (*LAUNCHERS, "basic")]
            if names and value.isprintable():
                raise SpecError(unknown_launcher(value))
        check_files(override, roadmap)
    _check_studies(overrides)


def check_files(override: str, roadmap: Roadmap) -> None:
    """Raise SpecError if the override selects a step, a transform or an ingredient whose file cannot be used."""
    group, _, value = override.lstrip("+").partition("=")
    errors = roadmap.errors if group == "step" else roadmap.transforms.errors if group in LIST_GROUPS else {}
    for name in value.strip("[]").split(","):
        if name.strip(" '\"") in errors:
            raise errors[name.strip(" '\"")]


def _check_studies(overrides: Sequence[str]) -> None:
    included = [_unquote(o.split("=", 1)[1]) for o in overrides if re.match(r"\+\+?study=", o)]
    names = [_unquote(o.split("=", 1)[1]) for o in overrides if o.startswith("study=")]
    for value in included:
        if not value.startswith("named_") and value not in config_names("study"):
            several = re.search(r"[,\[(]", value) is not None
            problem = "one study per command; run a command for each" if several else "unknown"
            hint = "" if several else f"; {suggest(value, config_names('study'))}"
            raise SpecError(f"study={value}: {problem}{hint}")
    if len(included) > 1:
        raise SpecError(f"+study={included[1]}: one study per command; +study={included[0]} is given too")
    for name in names:
        check_study_name(name)
    if not names or included or any(NETWORK_OVERRIDE.match(override) for override in overrides):
        return
    if names[-1] in config_names("study"):
        hint = f"use +study={names[-1]}, or another name"
        raise SpecError(f"study={names[-1]}: only names the study and does not select its runs; {hint}")


def check_study_name(name: str) -> None:
    """Raise SpecError unless `name` can be the name of a study."""
    several = re.fullmatch(r"[\w.-]+(,[\w.-]+)+", name) is not None
    if several:
        raise SpecError(f"study={name}: one study per command; run a command for each")
    if not is_study_name(name) or name == "null":
        raise SpecError(f"study={printable(name, 100)}: {STUDY_RULE}")


def _unquote(value: str) -> str:
    return value[1:-1] if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"" else value


def accept_step(arguments: Sequence[str]) -> list[str]:
    """Return `arguments` with `+step=NAME`, the form that Hydra needs, where `step=NAME` was given."""
    return [f"+{argument}" if argument.startswith("step=") else argument for argument in arguments]


def rewrite_study_override(overrides: list[str]) -> list[str]:
    """Return `overrides` with `study=NAME` rewritten so that it sets the field `study`.

    Hydra would read `study=NAME` as a choice of the config group `study`. Therefore NAME is registered as a config of
    that group. With `+study=X` in the overrides, this config includes the study X.
    """
    names = [_unquote(override.removeprefix("study=")) for override in overrides if override.startswith("study=")]
    if not names:
        return overrides
    name = names[-1]
    included = [override.removeprefix("+study=") for override in overrides if override.startswith("+study=")]
    node = {"defaults": [*included, "_self_"], "study": name}
    choice = "+".join([f"named_{name}", *included])
    ConfigStore.instance().store(group="study", name=choice, node=node, package="_global_")
    return [override for override in overrides if not re.match(r"\+?study=", override)] + [f"+study={choice}"]


def restore_study_override(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` as they were typed, before `rewrite_study_override`."""
    restored: list[str] = []
    for override in overrides:
        name, *included = override.removeprefix("+study=named_").split("+")
        is_rewritten = override.startswith("+study=named_")
        restored += [*(f"+study={study}" for study in included), f"study={name}"] if is_rewritten else [override]
    return restored


def describe_study_sweep(overrides: Sequence[str]) -> list[str]:
    """Return lines that say what `+study=NAME` in the overrides sweeps over; `--cfg job` does not show it."""
    names = [o.removeprefix("+study=") for o in overrides if o.startswith("+study=")]
    if not names or names[-1] not in config_names("study"):
        return []
    path = paths.find_config("study", names[-1])
    content = read_yaml(path) if path is not None else {}
    params = ((content.get("hydra") or {}).get("sweeper") or {}).get("params") or {}
    lines = [f"+study={names[-1]} is a sweep: " + " ".join(f"'{key}={value}'" for key, value in params.items())]
    design = (content.get("design") or {}).get("name")
    if design:
        lines.append(f"design.name={design} chooses the networks.")
    lines.append("Below is the config without the swept values; each run composes its own.")
    lines.append("For one run: +step=NAME --cfg job. For the list of the runs: plan=true.")
    return lines
