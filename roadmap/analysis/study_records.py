"""The records of a study, read from its runs' folders. Damaged files are left out and named."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from roadmap.config.datasets import root_decides_result
from roadmap.config.names import one_line
from roadmap.config.roadmaps import Roadmap, load_roadmap
from roadmap.config.schema import SpecError
from roadmap.records.evaluation import read_evaluation
from roadmap.records.manifest import MANIFEST_NAME, Manifest, read_manifest, setting_overrides
from roadmap.records.record import FAILED, FORMAT, RUNS_FOLDER, InvalidRecordError, load_record
from roadmap.records.scores import read_scores

Records = list[dict[str, Any]]
MAX_NAMED = 10  # files of one kind in the notes of a report
# Fields of the section `data` that do not decide the result and are not part of a setting.
NOT_IN_SETTING = ("data.download=", "data.workers=", "data.quick_")


class StudyRecords(NamedTuple):
    """The records of a study, and its damaged files."""

    manifest: Manifest
    records: Records  # with `correct`, the scores on the test images, and `setting`, a list of overrides
    num_unfinished: int  # runs without a record
    roadmap: Roadmap  # of all records
    problems: list[str]  # a sentence for each damaged file


def read_study_records(
    folder: Path, runs: Mapping[str, Sequence[str]] | None = None, roadmap: str | None = None
) -> StudyRecords:
    """Read the records of the study in `folder`: those of the runs in its study.json, or of `runs` alone.

    `runs` maps the name of a run's folder to its overrides. `roadmap` names the roadmap of the records; by default, it
    is that of the study.json, or of the records themselves. Without a study.json, all records in the folder are read;
    with a damaged one, all records that name the study. Raises SpecError if there is no record.
    """
    if not folder.is_dir():
        raise SpecError(f"{folder}: no such folder; {suggest_studies(folder)}")
    name, problems = folder.resolve().name, list[str]()
    try:
        manifest = read_manifest(folder)
        is_damaged = False
    except SpecError as error:
        manifest, is_damaged = None, True
        problems.append(
            f"{name}/{str(error).removeprefix(str(folder)).lstrip('/')}. Until then the rows are the runs whose record"
            " names this study; runs that it shares with other studies may be missing."
        )
    if runs is None and manifest is not None:
        runs = manifest.runs
    records, num_unfinished, invalid = _read_runs(_run_folders(folder, runs, is_damaged), runs)
    if runs is None and is_damaged:
        records = [record for record in records if record["study"] == name]
    if not records:
        raise SpecError("; ".join([f"{folder}: contains no records of runs", *problems, *invalid[:1], *_hint(folder)]))
    records, of_format = _of_newest_format(records)
    problems += of_format
    scores = [read_scores(record.pop("folder"), record) for record in records]
    without_images = [
        f"{RUNS_FOLDER}/{record['run']}/correct.npy {score.problem}"
        for record, score in zip(records, scores, strict=True)
        if score.problem
    ]
    records = [record | {"correct": score.values} for record, score in zip(records, scores, strict=True)]
    for record in records:
        found = read_evaluation(folder.parent / RUNS_FOLDER / record["run"])
        is_current = found is not None and found.get("run") == record.get("started_at")  # not of an earlier training
        record["evaluation"] = found if is_current else None
    problems += _shortened("Left out: {}.", invalid)
    problems += _shortened("Only the accuracy of these runs is used, not the single test images: {}.", without_images)
    if roadmap is None and manifest is not None and name != RUNS_FOLDER:
        roadmap = manifest.roadmap
    manifest = manifest or Manifest(name)
    loaded = _roadmap_of(folder, manifest, records, roadmap)
    for record in records:
        if record["config"]["roadmap"] != loaded.name:  # a run that another roadmap has trained first
            _describe_in(loaded, record)
    return StudyRecords(manifest, records, num_unfinished, loaded, problems)


def _describe_in(roadmap: Roadmap, record: dict[str, Any]) -> None:
    """Set the name, the label, the sections and the variants of a record to those of `roadmap`."""
    names = [info["name"] for info in record["transforms"]]
    for info in record["transforms"]:
        info |= {"section": roadmap.section_of(info["name"]), "variant": info["name"] in roadmap.variant_transforms}
    if set(names) <= roadmap.transforms.keys():
        record |= {"name": roadmap.network_name(names), "label": roadmap.network_label(names)}


def _roadmap_of(folder: Path, manifest: Manifest, records: Records, name: str | None) -> Roadmap:
    """Return the roadmap `name`, by default that of the records, from the files in the manifest if it has them."""
    names = [name] if name is not None else sorted({record["config"]["roadmap"] for record in records})
    if len(names) > 1:
        advice = "no table mixes two roadmaps: give the runs of each a study of their own with study=NAME"
        raise SpecError(f"{folder}: has runs of the roadmaps {', '.join(names)}; {advice}")
    try:
        return load_roadmap(names[0], manifest.roadmap_files or None)
    except SpecError as error:
        raise SpecError(f"{folder}: {error}. A roadmap outside the package needs --config-dir FOLDER") from error


def _of_newest_format(records: Records) -> tuple[Records, list[str]]:
    """Return the records of the newest format with results, and a sentence for each other kind of record.

    Versions with different formats train differently, so that their runs must not be compared with each other. A failed
    run has no result, so it does not replace the results of an older format.
    """
    newest = max(record["format"] for record in [r for r in records if r["status"] != FAILED] or records)
    sentences = []
    if older := sum(record["format"] < newest for record in records):
        sentences.append(f"Left out: {_count(older)} of an earlier version of roadmap, whose training differs.")
    if newer := sum(record["format"] > newest for record in records):
        sentences.append(f"Left out: {_count(newer, 'failed run')} of a later version of roadmap.")
    if newest < FORMAT:
        of_version = f"an earlier version of roadmap (record format {newest})"
        sentences.append(f"The runs are of {of_version}, whose training differs in details.")
    return [record for record in records if record["format"] == newest], sentences


def _count(number: int, noun: str = "run") -> str:
    return f"{number} {noun}{'s' * (number > 1)}"


def _run_folders(folder: Path, runs: Mapping[str, Sequence[str]] | None, is_damaged: bool) -> list[Path]:
    if runs is not None:
        return [folder.parent / RUNS_FOLDER / name for name in runs]
    return [
        path.parent for path in sorted((folder.parent / RUNS_FOLDER if is_damaged else folder).glob("*/record.json"))
    ]


def _read_runs(folders: Sequence[Path], runs: Mapping[str, Sequence[str]] | None) -> tuple[Records, int, list[str]]:
    """Return the records, the number of runs that have none, and a text for each record that cannot be used."""
    records: Records = []
    invalid: list[str] = []
    num_unfinished = 0
    known: dict[tuple[str, int], str] = {}  # folder of each run, by config and seed
    for folder in folders:
        path = f"{RUNS_FOLDER}/{folder.name}/record.json"
        try:
            record = load_record(folder)
        except InvalidRecordError as error:
            invalid.append(f"{one_line(path)} ({error})")
            continue
        if record is None:
            num_unfinished += 1
            continue
        key = record["config_hash"], record["seed"]
        if key in known:
            invalid.append(f"{one_line(path)} (the same run as {known[key]})")
            continue
        known[key] = one_line(folder.name)
        words = setting_overrides(shlex.split(record["command"])[2:]) if runs is None else runs[folder.name]
        record |= {"run": one_line(folder.name), "folder": folder, "setting": _setting(record, words)}
        record |= {key: one_line(record[key]) for key in ("name", "label", "data", "base")}
        record["label"] = record["label"] or record["name"]
        records.append(record)
    return records, num_unfinished, invalid


def _setting(record: dict[str, Any], words: Sequence[str]) -> list[str]:
    """Return the overrides of a run that decide its result, besides those that choose its network."""
    dropped = NOT_IN_SETTING
    if not root_decides_result(record["config"]["data"]["name"]):
        dropped += ("data.root=",)
    return [one_line(word) for word in words if not word.lstrip("+").startswith(dropped)]


def _shortened(form: str, texts: Sequence[str]) -> list[str]:
    """Return one sentence with the texts, or none; only the first texts if there are many."""
    more = [f"{len(texts) - MAX_NAMED} more"] if len(texts) > MAX_NAMED else []
    return [form.format("; ".join([*texts[:MAX_NAMED], *more]))] if texts else []


def suggest_studies(folder: Path) -> str:
    """Return a hint that names the studies beside `folder` and in `experiments`."""
    places = (folder.parent, Path("experiments"))
    found = sorted({path.parent for place in places for path in _manifests(place)} - {folder})
    if not found:
        return "give the folder of a study, as experiments/roadmap"
    names = ", ".join(str(path) for path in found[:MAX_NAMED])
    return f"existing studies: {one_line(names)}{', ...' if len(found) > MAX_NAMED else ''}"


def _manifests(folder: Path) -> list[Path]:
    try:
        return list(folder.glob(f"*/{MANIFEST_NAME}"))
    except OSError:
        return []


def _hint(folder: Path) -> list[str]:
    if (folder / "record.json").exists():
        return ["it is the folder of a single run"]
    return [suggest_studies(folder)]
