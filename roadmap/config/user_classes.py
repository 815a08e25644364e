"""Classes of the user that a config names by their path, such as `mypackage.blocks.MyBlock`."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from roadmap.config.names import one_line, printable
from roadmap.config.schema import SpecError

MODULE = ("torch.nn.modules.module", "Module")  # not imported here: torch takes seconds


_imported: set[type] = set()


def is_class_path(text: str) -> bool:
    """Return whether `text` has the form of a path: names that are joined by dots."""
    return all(part.isidentifier() for part in text.split(".")) and "." in text


@cache
def import_class(path: str, field: str) -> Callable[..., Any]:
    """Return the class at `path`, the value of `field`.

    Raises SpecError, with the reason in one line, if it cannot be imported or is no subclass of torch.nn.Module. So a
    config, which may come from another person, can call nothing but constructors of layers.
    """
    shown = f"{field}={printable(path, 200)}"
    if not is_class_path(path):
        raise SpecError(f"{shown}: is not the path of a class; write it as mypackage.module.MyClass")
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever the module of the user raises
        reason = one_line(f"{type(error).__name__}: {error}")[:200]
        advice = "install its package or set PYTHONPATH"
        raise SpecError(f"{shown}: {module_name} cannot be imported ({reason}); {advice}") from error
    found = getattr(module, name, None)
    if not isinstance(found, type):
        raise SpecError(f"{shown}: {module_name} has no class {name}; correct the name")
    if not any((base.__module__, base.__name__) == MODULE for base in found.__mro__):
        raise SpecError(f"{shown}: is no layer; name a subclass of torch.nn.Module")
    _imported.add(found)
    return found


def is_user_class(kind: type) -> bool:
    """Return whether a config of this process has named the class."""
    return kind in _imported
