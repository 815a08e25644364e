"""Reader of a roadmap: the file conf/roadmap/NAME.yaml.

Keys: `title` (text), `base` (its default base), `steps` (in order), and optionally `variants` (step -> what was tried
there and not kept), `aliases` (other name -> step), `sections` (of the paper: title, colour and transforms),
`reference` (a CSV file beside it; see `roadmap.config.reference`), `start` and `full` (defaults of design.start and
design.full), `published_at` (bases and image size of the published numbers). An entry of `steps` or `variants` is the
name of a transform, or `NAME: [TRANSFORM, ...]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from roadmap.config.names import FILE_RULE, LABEL_RULE, is_file_name, is_label, printable
from roadmap.config.schema import SpecError
from roadmap.config.transform_files import Files, Transform

KEYS = ("title", "base", "steps", "variants", "aliases", "sections", "reference", "start", "full", "published_at")
MAX_STEPS = 100
# Colours of sections that name none. The palette of Okabe and Ito suits colour-blind readers.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#0072b2", "#f0e442")


@dataclass(frozen=True)
class Step:
    """The base plus all transforms up to and including the step's own; one row of the table."""

    name: str
    before: str | None  # the previous step, which this one includes
    transforms: tuple[str, ...]  # in order; the step's own are the last
    own: tuple[str, ...]  # transforms that the previous step does not have


@dataclass(frozen=True)
class Section:
    """A group of steps: a section of the paper. Figures give it a colour, and their legend its title."""

    title: str
    color: str  # as #rrggbb
    transforms: tuple[str, ...] = ()  # empty: the base itself


@dataclass(frozen=True)
class RoadmapFile:
    """The content of conf/roadmap/NAME.yaml, checked."""

    title: str
    base: str
    steps: dict[str, Step]  # in order, without variants
    variants: dict[str, Step]
    aliases: dict[str, str]  # other name -> name of the step
    start: str  # step from which add_one_in starts
    full: str  # step whose transforms leave_one_out and attribution remove, and add_one_in adds
    sections: dict[str, Section] = field(default_factory=dict)  # such as "2.6", in order
    reference: str | None = None  # file name of the reference table
    bases: tuple[str, ...] = ()  # of the published numbers
    image_size: int = 224  # of the published numbers, pixels
    errors: dict[str, SpecError] = field(default_factory=dict)  # steps and variants with a transform that is damaged


class _DamagedTransformError(Exception):
    """The file of a transform cannot be used."""

    def __init__(self, error: SpecError) -> None:
        super().__init__(str(error))
        self.error = error


def is_step_name(name: str) -> bool:
    """Return whether `name` can be the name of a step. `ingredients` is the name of all ingredients together."""
    reserved = ("null", "true", "false", "ingredients")
    return re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name) is not None and name.lower() not in reserved


class _Checker:
    """Raises errors that begin with the file and the key."""

    def __init__(self, shown: str, transforms: Files[Transform]) -> None:
        self.shown, self.transforms = shown, transforms

    def require(self, holds: bool, key: str, message: str) -> None:
        if not holds:
            raise SpecError(f"{self.shown}: {key}: {message}")

    def text(self, value: Any, key: str, rule: Callable[[str], bool], message: str) -> str:
        self.require(isinstance(value, str) and rule(value), key, message)
        return str(value)

    def name(self, value: Any, key: str) -> str:
        """Return a name that can follow `+step=` and be a part of the name of a network."""
        message = f"{printable(str(value), 40)!r} must be a name of 1 to 64 ASCII letters, digits or '_', not a number"
        return self.text(value, key, is_step_name, message)

    def entries(self, values: Any, key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield name and own transforms of each entry of `steps` or of a list of variants."""
        self.require(isinstance(values, list) and 0 < len(values) <= MAX_STEPS, key, "must be a list; add '- NAME'")
        for value in values:
            if isinstance(value, dict):
                self.require(len(value) == 1, key, "write one step in each entry, as - NAME: [TRANSFORM, ...]")
                ((name, own),) = value.items()
                own = list[str]() if own is None else own
                names = isinstance(own, list) and all(isinstance(item, str) for item in own)
                self.require(names, f"{key}.{name}", "must be a list of transforms, as [gelu, layer_norm]")
            else:
                name, own = value, [value]
            yield self.name(name, key), tuple(own)

    def step(self, name: str, own: tuple[str, ...], before: Step | None, key: str) -> Step:
        """Return the step, after checking that its transforms exist and fit together."""
        earlier = before.transforms if before is not None else ()
        transforms = earlier + own
        for other in own:
            if other not in self.transforms:
                if other in self.transforms.errors:
                    raise _DamagedTransformError(self.transforms.errors[other])
                unknown = f"{printable(other, 40)} is no file in conf/transform or conf/ingredient; correct the name"
                raise SpecError(f"{self.shown}: {key}.{name}: {unknown}")
            info, where = self.transforms[other], f"{key}.{name}"
            self.require(transforms.count(other) == 1, where, f"{other} is there already; remove it")
            message = f"{other} is a complete network; give it with reference={other} to the study instead"
            self.require(not info.reference, where, message)
            unmet = [need for need in info.needs if need not in transforms]
            self.require(not unmet, where, f"{other} needs {', '.join(unmet)}; add it before")
        if before is not None:
            self.require(bool(own), f"{key}.{name}", "adds no transform; add one, or make it an alias")
        return Step(name, before.name if before is not None else None, transforms, own)


def parse_roadmap(content: Mapping[str, Any], shown: str, transforms: Files[Transform]) -> RoadmapFile:
    """Return the roadmap with the fields `content` of its file; `shown` is its path in messages.

    Raises SpecError, with the file and the key, for each mistake.
    """
    check = _Checker(shown, transforms)
    for key in content:
        check.require(key in KEYS, printable(key, 40), f"unknown key; use {', '.join(KEYS)}")
    for key in ("title", "base", "steps"):
        check.require(key in content, key, "is required; add it")
    steps, errors = _read_steps(content["steps"], check)
    variants = _read_variants(content.get("variants") or {}, check, steps, errors)
    aliases = _mapping(content.get("aliases") or {}, "aliases", check)
    for alias, step in aliases.items():
        where = f"aliases.{check.name(alias, 'aliases')}"
        check.require(alias not in steps and alias not in variants, where, "is the name of a step; choose another name")
        is_step = isinstance(step, str) and step in {*steps, *variants, *errors}
        check.require(is_step, where, f"{printable(str(step), 40)} is no step of this roadmap")
    published_at = _mapping(content.get("published_at") or {}, "published_at", check)
    for key in published_at:
        check.require(key in ("bases", "image_size"), f"published_at.{key}", "unknown key; use bases, image_size")
    message = f"{printable(str(content['base']), 40)!r} must be the name of a file in conf/base"
    base = check.text(content["base"], "base", is_file_name, message)
    bases = published_at.get("bases", [base])
    is_list = isinstance(bases, list) and bool(bases) and all(isinstance(item, str) for item in bases)
    check.require(is_list, "published_at.bases", "must be a list of bases, as [resnet50]")
    size = published_at.get("image_size", 224)
    is_size = isinstance(size, int) and not isinstance(size, bool) and 32 <= size <= 4096
    check.require(is_size, "published_at.image_size", "must be a number of pixels from 32 to 4096")
    sections = _read_sections(content.get("sections") or {}, check)
    reference = content.get("reference")
    if reference is not None:
        is_csv = isinstance(reference, str) and reference.endswith(".csv") and is_file_name(reference[:-4])
        check.require(is_csv, "reference", f"must be a file NAME.csv beside this file; {FILE_RULE}")
    names = list(steps)
    ends = {"start": content.get("start", names[0]), "full": content.get("full", names[-1])}
    for key, step in ends.items():
        is_step = isinstance(step, str) and (step in steps or step in errors)
        check.require(is_step, key, f"{printable(str(step), 40)} is no step of this roadmap; use one of its steps")
    return RoadmapFile(
        title=check.text(content["title"], "title", is_label, f"{LABEL_RULE}; write it in quotes"),
        base=base,
        steps=steps,
        variants=variants,
        aliases=aliases,
        start=ends["start"],
        full=ends["full"],
        sections=sections,
        reference=reference,
        bases=tuple(bases),
        image_size=size,
        errors=errors,
    )


def _read_steps(values: Any, check: _Checker) -> tuple[dict[str, Step], dict[str, SpecError]]:
    """Return the steps in order. A step with a damaged transform, and those after it, are errors instead."""
    steps: dict[str, Step] = {}
    errors: dict[str, SpecError] = {}
    before: Step | None = None
    for name, own in check.entries(values, "steps"):
        check.require(name not in steps and name not in errors, f"steps.{name}", "occurs twice; choose another name")
        try:
            if errors:
                raise _DamagedTransformError(next(iter(errors.values())))
            before = steps[name] = check.step(name, own, before, "steps")
        except _DamagedTransformError as damaged:
            errors[name] = damaged.error
    if not steps:
        raise next(iter(errors.values()))
    return steps, errors


def _mapping(value: Any, key: str, check: _Checker) -> dict[str, Any]:
    check.require(isinstance(value, dict), key, "must be a section; write each entry as name: value")
    return {str(name): item for name, item in value.items()}


def _read_variants(
    value: Any, check: _Checker, steps: Mapping[str, Step], errors: dict[str, SpecError]
) -> dict[str, Step]:
    variants: dict[str, Step] = {}
    for at, values in _mapping(value, "variants", check).items():
        where = f"variants.{printable(at, 40)}"
        check.require(
            at in steps or at in errors, where, "is no step of this roadmap; write variants below the name of a step"
        )
        before = steps[at].before if at in steps else None
        for name, own in check.entries(values, where):
            is_new = name not in steps and name not in variants and name not in errors
            check.require(is_new, f"{where}.{name}", "is the name of another step; choose another name")
            try:
                if at in errors:
                    raise _DamagedTransformError(errors[at])
                variants[name] = check.step(name, own, steps[before] if before is not None else None, where)
            except _DamagedTransformError as damaged:
                errors[name] = damaged.error
    return variants


def _read_sections(value: Any, check: _Checker) -> dict[str, Section]:
    sections: dict[str, Section] = {}
    palette = cycle(PALETTE)
    taken: set[str] = set()
    for name, entry in _mapping(value, "sections", check).items():
        where = f"sections.{printable(name, 40)}"
        check.require(is_label(name), where, LABEL_RULE)
        keys = _mapping(entry, where, check)
        for key in keys:
            check.require(
                key in ("title", "color", "transforms"), f"{where}.{key}", "unknown key; use title, color, transforms"
            )
        title = check.text(keys.get("title"), f"{where}.title", is_label, f"{LABEL_RULE}; write it in quotes")
        color = keys.get("color") or next(palette)
        is_color = isinstance(color, str) and re.fullmatch("#[0-9a-f]{6}", color) is not None
        check.require(is_color, f"{where}.color", 'must be a colour in quotes, as "#0072b2"')
        transforms = keys.get("transforms", [])
        is_list = isinstance(transforms, list) and all(isinstance(item, str) for item in transforms)
        check.require(is_list, f"{where}.transforms", "must be a list of transforms, as [gelu, layer_norm]")
        for other in transforms:
            known = other in check.transforms or other in check.transforms.errors
            check.require(known, f"{where}.transforms", f"{printable(other, 40)} is no transform; correct the name")
            check.require(
                other not in taken, f"{where}.transforms", f"{other} is in another section; remove it from one"
            )
            taken.add(other)
        sections[name] = Section(title, color, tuple(transforms))
    return sections
