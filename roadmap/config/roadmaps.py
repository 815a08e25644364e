"""Roadmaps: a base, an ordered list of steps with variants, and a reference table of published numbers.

A roadmap is one file, conf/roadmap/NAME.yaml, chosen with `roadmap=NAME`. There is no other list of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from roadmap.config import paths
from roadmap.config.files import read_text, read_yaml, shown_path
from roadmap.config.names import is_file_name, printable, suggest
from roadmap.config.reference import ReferenceRow, ReferenceTable, parse_reference
from roadmap.config.roadmap_files import RoadmapFile, Step, parse_roadmap
from roadmap.config.schema import DEFAULT_ROADMAP, SpecError
from roadmap.config.transform_files import GROUPS, Files, Transform, read_transforms

# Fields of the recipe -> fields of the network that take their value from them (conf/config.yaml).
INTERPOLATED_BY = {f"recipe.{name}": f"network.{name}" for name in ("layer_scale", "drop_path", "init")}


@dataclass(frozen=True, eq=False)
class Roadmap:
    """A roadmap and the transforms that can be combined with its own."""

    name: str
    file: RoadmapFile
    reference_rows: tuple[ReferenceRow, ...]
    transforms: Files[Transform]  # all of conf/transform and conf/ingredient
    own_files: Mapping[str, str]  # files of the user that define it: transform/NAME.yaml -> content; empty if packaged
    more_needs: Mapping[str, Sequence[str]] = field(default_factory=dict)  # of a study: `design.needs`

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Steps, variants and aliases by name; the steps come first, in order."""
        named = self.file.steps | self.file.variants
        return named | {alias: named[name] for alias, name in self.file.aliases.items() if name in named}

    @cached_property
    def errors(self) -> dict[str, SpecError]:
        """Steps, variants and aliases that cannot be used, because the file of a transform is damaged."""
        errors = self.file.errors
        return errors | {alias: errors[name] for alias, name in self.file.aliases.items() if name in errors}

    @property
    def has_papers_numbers(self) -> bool:
        """Whether the reference table has the numbers of a paper: those of packaged roadmaps, on ImageNet-1K."""
        return bool(self.reference_rows) and not self.own_files

    @property
    def step_names(self) -> list[str]:
        """Names of the steps in order, without variants and aliases."""
        return list(self.file.steps)

    @cached_property
    def variant_transforms(self) -> frozenset[str]:
        """Transforms that only variants have."""
        of_steps = {name for step in self.file.steps.values() for name in step.transforms}
        return frozenset({name for step in self.file.variants.values() for name in step.own} - of_steps)

    def section_of(self, transform: str) -> str:
        """Return the section of a transform; empty if it is in none."""
        return next((name for name, section in self.file.sections.items() if transform in section.transforms), "")

    @property
    def base_section(self) -> str:
        """The section of the base itself; empty if there is none."""
        return next((name for name, section in self.file.sections.items() if not section.transforms), "")

    def step(self, field_name: str, name: str) -> Step:
        """Return a step. Raises SpecError, naming the field that asks for it, for an unknown name."""
        if name in self.errors:
            raise self.errors[name]
        if name not in self.steps:
            raise SpecError(f"{field_name}={name}: unknown step; use one of {', '.join(self.step_names)}")
        return self.steps[name]

    def reference(self, table: int | None) -> ReferenceTable:
        """Return the published numbers for bases whose `paper_table` is `table`; without rows if there are none."""
        rows = tuple(row for row in self.reference_rows if row.table in (None, table))
        with_row = {row.step for row in rows}
        return ReferenceTable(rows, tuple(name for name in self.step_names if name in with_row))

    @cached_property
    def ingredients(self) -> dict[str, Transform]:
        """The parts of which the enhanced recipe consists, by name: the files of conf/ingredient all of whose fields
        have the same value in conf/recipe/modern.yaml. `ema` is not one of them."""
        enhanced = {f"recipe.{name}": value for name, value in read_yaml(paths.CONF / "recipe" / "modern.yaml").items()}
        enhanced = {"recipe.decay_norms_and_biases": False} | enhanced
        return {
            name: info
            for name, info in self.transforms.items()
            if info.group == "ingredient" and info.sets.items() <= enhanced.items()
        }

    @cached_property
    def _positions(self) -> dict[str, int]:
        position: dict[str, int] = {}
        for rank, steps in enumerate((self.file.steps, self.file.variants)):
            for step in steps.values():
                for i, name in enumerate(step.transforms):
                    position.setdefault(name, 1000 * rank + i)
        return position

    def sort(self, names: Iterable[str]) -> list[str]:
        """Return transforms in the order of the roadmap, then those of variants, then those of no step, by name."""
        return sorted(names, key=lambda name: (self._positions.get(name, 2000), name))

    @cached_property
    def needs(self) -> Mapping[str, Sequence[str]]:
        """For each transform, those without which no network of a design has it."""
        return {name: (*info.needs, *self.more_needs.get(name, ())) for name, info in self.transforms.items()}

    def with_more_needs(self, needs: Mapping[str, Sequence[str]]) -> Roadmap:
        """Return this roadmap with further needs of its transforms, as a study asks for (`design.needs`)."""
        return replace(self, more_needs=needs)

    def without_unmet_needs(self, names: list[str]) -> list[str]:
        """Return `names` without the transforms whose needs are not among them."""
        return without_unmet_needs(names, self.needs)

    def with_needs(self, names: list[str]) -> list[str]:
        """Return `names`, preceded by the transforms that they need."""
        return with_needs(names, self.needs)

    def joined_labels(self, names: Iterable[str]) -> str:
        """Return the labels of the transforms, joined by "and"."""
        return " and ".join(self.transforms[name].label for name in names)

    def differing(self, names: list[str], others: list[str]) -> tuple[list[str], list[str]]:
        """Return the transforms that only `names` has and those that only `others` has.

        Where one of the two has single ingredients, the enhanced recipe (`training_recipe`) counts as all its
        ingredients.
        """
        if set(self.ingredients) & {*names, *others}:
            names, others = self._expand_recipe(names), self._expand_recipe(others)
        return [name for name in names if name not in others], [name for name in others if name not in names]

    def _expand_recipe(self, names: list[str]) -> list[str]:
        ingredients = self.ingredients if "training_recipe" in names else ()
        return [name for name in [*names, *ingredients] if name != "training_recipe"]

    def check_conflicts(self, names: Iterable[str]) -> None:
        """Raise SpecError if two transforms set the same field to different values."""
        set_by: dict[str, tuple[str, Any]] = {}
        for name in self.sort(names):
            info = self.transforms[name]
            for path, value in (info.choices | info.sets).items():
                field = INTERPOLATED_BY.get(path, path)
                other, other_value = set_by.setdefault(field, (name, value))
                if other_value != value:
                    raise SpecError(f"transform={name}: {other} and {name} both set {field}; leave one of them out")

    def network_name(self, names: Iterable[str]) -> str:
        """Return the step that these transforms make, or the nearest step with additions (+) and omissions (-).

        Examples: `gelu`, `baseline+depthwise_conv+gelu`, `separate_downsampling-gelu`. A reference network keeps its
        name.
        """
        names = list(names)
        if any(self.transforms[name].reference for name in names):
            return "+".join(self.sort(names))
        step, added, omitted = self._nearest_step(frozenset(names))
        return "+".join([step, *added]) + "".join(f"-{name}" for name in omitted)

    def network_label(self, names: Iterable[str]) -> str:
        """Return the network's label in tables: what a step adds, or the nearest step and the differences."""

        def labels(transforms: Iterable[str]) -> str:
            return ", ".join(self.transforms[name].label for name in transforms)

        names = list(names)
        if any(self.transforms[name].reference for name in names):
            return labels(names)
        step, added, omitted = self._nearest_step(frozenset(names))
        own = self.steps[step].own if step in self.steps else ()
        label = labels(own) or {"ingredients": "all ingredients"}.get(step, step)
        return label + (f" with {labels(added)}" if added else "") + (f" without {labels(omitted)}" if omitted else "")

    def _nearest_step(self, names: frozenset[str]) -> tuple[str, list[str], list[str]]:
        """Return a step ("ingredients": all ingredients), the transforms to add to it, and those to omit from it."""
        steps = {name: set(step.transforms) for name, step in (self.file.steps | self.file.variants).items()}
        steps |= {"ingredients": set(self.ingredients)}
        nearest = min(steps, key=lambda name: (len(names ^ steps[name]), -len(steps[name]), name))
        return nearest, self.sort(names - steps[nearest]), self.sort(steps[nearest] - names)


def without_unmet_needs(names: list[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return `names` without the transforms whose needs are not among them."""
    while unmet := [name for name in names if not set(needs.get(name, ())) <= set(names)]:
        names = [name for name in names if name not in unmet]
    return names


def with_needs(names: list[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return `names`, preceded by the transforms that they need."""
    while missing := dict.fromkeys(need for name in names for need in needs.get(name, ()) if need not in names):
        names = [*missing, *names]
    return names


def roadmap_names() -> list[str]:
    """Return the names of all roadmaps."""
    return [path.stem for path in paths.config_files("roadmap")]


def load_roadmap(name: str = DEFAULT_ROADMAP, own_files: Mapping[str, str] | None = None) -> Roadmap:
    """Return the roadmap NAME of conf/roadmap; repeated calls return the same object.

    With `own_files` (`Roadmap.own_files` of an earlier time), these files are read instead of those of the user. Raises
    SpecError for an unknown name, and for a mistake in a file of the roadmap.
    """
    own = None if own_files is None else tuple(own_files.items())
    return _load(name, paths.config_folders(), own)


@cache
def _load(name: str, folders: tuple[Path, ...], own_files: tuple[tuple[str, str], ...] | None) -> Roadmap:
    texts = None if own_files is None else dict(own_files)
    key = f"roadmap/{name}.yaml"
    path = paths.find_config("roadmap", name)
    if texts is not None and key in texts:
        path = Path(key)
    elif texts is not None:
        path = paths.CONF / key
    if path is None or not is_file_name(name):
        raise SpecError(f"roadmap={printable(name, 100)}: unknown; {suggest(name, roadmap_names())}")
    shown, transforms = shown_path(path), read_transforms(texts)

    def text_of(file: Path) -> str:
        return texts[file.as_posix()] if texts is not None and file.as_posix() in texts else read_text(file)

    content = read_yaml(path, text_of(path))
    base, bases = content.get("base"), [file.stem for file in paths.config_files("base")]
    if texts is None and isinstance(base, str) and base not in bases:
        raise SpecError(f"{shown}: base: {printable(base, 40)} is no file in conf/base; {suggest(base, bases)}")
    file = parse_roadmap(content, shown, transforms)
    rows: tuple[ReferenceRow, ...] = ()
    own = {key: text_of(path)}
    if file.reference is not None:
        csv = path.with_name(file.reference)
        references = (transform.name for transform in transforms.values() if transform.reference)
        known = {*file.steps, *file.variants, *file.errors, *references}
        rows = parse_reference(text_of(csv), shown_path(csv), known)
        own[f"roadmap/{csv.name}"] = text_of(csv)
    own |= {f"{t.group}/{t.name}.yaml": t.text for t in transforms.values() if not _is_packaged(t)}
    own |= _texts_of_damaged_files(transforms, texts)
    result = Roadmap(name, file, rows, transforms, {} if paths.CONF in path.parents else own)
    for step in result.steps.values():
        try:
            result.check_conflicts(step.transforms)
        except SpecError as error:
            raise SpecError(f"{shown}: steps.{step.name}: {str(error).partition(': ')[2]}") from error
    return result


def _texts_of_damaged_files(transforms: Files[Transform], texts: Mapping[str, str] | None) -> dict[str, str]:
    """Return the user's files of transforms that cannot be used, as far as they can be read: steps may include them."""
    if texts is not None:
        return {name: text for name, text in texts.items() if Path(name).stem in transforms.errors}
    found: dict[str, str] = {}
    for path in (path for group in GROUPS for path in paths.config_files(group)):
        if path.stem in transforms.errors and paths.CONF not in path.parents:
            with suppress(SpecError):
                found[f"{path.parent.name}/{path.name}"] = read_text(path)
    return found


def _is_packaged(transform: Transform) -> bool:
    return (paths.CONF / transform.group / f"{transform.name}.yaml").exists()
