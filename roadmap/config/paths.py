"""Folders of configuration files: the packaged one, and those of the user.

The folders of the user come from `--config-dir DIR` or `hydra.searchpath=[DIR]` of the command line. Like Hydra's
search path, they belong to the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent.parent  # the folder `roadmap`
# An installed wheel contains `conf` in the package; in a checkout it is next to the package.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"

_own_folders: tuple[Path, ...] = ()
_own_arguments: tuple[str, ...] = ()


def own_folders() -> tuple[Path, ...]:
    """Return the folders of the user, absolute, in the order of the search."""
    return _own_folders


def own_arguments() -> tuple[str, ...]:
    """Return the arguments of a command line that choose the folders of the user, as typed."""
    return _own_arguments


def use_folders(folders: Sequence[Path], arguments: Sequence[str] = ()) -> None:
    """Search the user's `folders` after the packaged configs. A folder that is the packaged one has no effect.

    `arguments` are those of the command line that chose them.
    """
    global _own_folders, _own_arguments  # noqa: PLW0603
    absolute = (folder.absolute() for folder in folders)
    _own_arguments = tuple(arguments)
    _own_folders = tuple(dict.fromkeys(folder for folder in absolute if folder.resolve() != CONF.resolve()))


def config_folders() -> tuple[Path, ...]:
    """Return all folders of configs; of two files with the same name, the one in the earlier folder counts."""
    return (CONF, *_own_folders)


def config_files(group: str, ending: str = "yaml") -> list[Path]:
    """Return the files of a group, such as `transform`, sorted by name; each name once."""
    return sorted({path.stem: path for path in _all_files(group, ending)}.values(), key=lambda path: path.stem)


def find_config(group: str, name: str) -> Path | None:
    """Return the file of a config, or None if there is none."""
    return next((path for path in config_files(group) if path.stem == name), None)


def _all_files(group: str, ending: str) -> Iterator[Path]:
    for folder in reversed(config_folders()):
        yield from (folder / group).glob(f"*.{ending}")
