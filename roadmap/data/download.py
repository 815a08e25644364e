"""Download of the datasets that torchvision can download."""

from __future__ import annotations

from pathlib import Path

from roadmap.config.datasets import KNOWN_DATASETS, is_present, wanted_files
from roadmap.config.schema import DataSpec, SpecError
from roadmap.runtime.logs import logger


def download_if_absent(data: DataSpec) -> None:
    """Download a dataset to `data.root` if its files are absent.

    Raises SpecError, which names the files to put there, if the download fails. No empty folder remains then.
    """
    if is_present(data):
        return
    root = Path(str(data.root))
    existing = next(parent for parent in (root, *root.parents) if parent.exists())
    logger.info(f"downloading {data.name} to {root}")
    from torchvision import datasets

    known = KNOWN_DATASETS[data.name]
    try:
        for arguments in known.split_arguments:
            getattr(datasets, known.torchvision_class)(root, download=True, **arguments)
    except Exception as error:
        _remove_empty_folders(root, existing)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        message = f"download of {data.name} failed ({reason}); put {wanted_files(data)} there"
        raise SpecError(f"data.root={root}: {message}") from error


def _remove_empty_folders(root: Path, existing: Path) -> None:
    """Remove the empty folders in `root`, then `root` and its parents up to `existing`, which is kept."""
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    while root != existing and root.is_dir() and not any(root.iterdir()):
        root.rmdir()
        root = root.parent
