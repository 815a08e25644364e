"""Download of datasets that torchvision can fetch."""

from __future__ import annotations

from pathlib import Path

from roadmap.config.datasets import is_present, wanted_files
from roadmap.config.schema import DataSpec, SpecError


def download_if_absent(data: DataSpec) -> None:
    """Download a dataset that is absent; raise SpecError, saying what to put where, if that fails."""
    if is_present(data):
        return
    root = Path(str(data.root))
    before = next(parent for parent in (root, *root.parents) if parent.exists())
    print(f"downloading {data.name} to {root}", flush=True)
    from torchvision import datasets

    try:
        if data.name == "fashion_mnist":
            datasets.FashionMNIST(root, download=True)
        elif data.name == "imagenette":
            datasets.Imagenette(root, size="160px", download=True)
        else:
            kinds = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}
            kinds[data.name](root, download=True)
    except Exception as error:
        _remove_empty(root, before)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        wanted = wanted_files(data)
        raise SpecError(f"data.root={root}: download failed ({reason}); put {wanted} there") from error


def _remove_empty(root: Path, keep: Path) -> None:
    """Take away the empty folders that a failed download made, up to `keep`, which was there before."""
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    while root != keep and root.is_dir() and not any(root.iterdir()):
        root.rmdir()
        root = root.parent
