"""Where each dataset lies, and what can be known of it without reading an image (or importing torch)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from roadmap.config.schema import DataSpec, SpecError
from roadmap.config.validation import require

DEFAULT_ROOT = Path("data")  # below the working directory
FASHION_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
FASHION_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # Debian's package dataset-fashion-mnist

# What torchvision's download leaves below data.root.
DOWNLOADS = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "imagenette": "imagenette2-160",
}
CLASSES = {"digits": 10, "fashion_mnist": 10, "cifar10": 10, "cifar100": 100, "imagenette": 10}
EMBEDDED_OR_DOWNLOADED = tuple(CLASSES)
FOLDER_DATASETS = ("folder", "imagenet")
SPLIT_FOLDERS = {"train": ("train",), "test": ("val", "validation", "test")}


def complete_data_spec(data: DataSpec) -> DataSpec:
    """Fill in what the data itself says: its folder and its number of classes.

    Raises SpecError where the data is not there and cannot be downloaded, or is not what the fields say.
    """
    if data.name in CLASSES:
        fits = data.num_classes in (None, CLASSES[data.name])
        require(fits, "data.num_classes", data.num_classes, f"{data.name} has {CLASSES[data.name]} classes")
        data = replace(data, num_classes=CLASSES[data.name])
    if data.name == "digits":
        return data
    if data.name in FOLDER_DATASETS:
        return _complete_folder(data)
    if "/" in data.name:  # timm's datasets
        what = f"give the number of classes of {data.name}"
        require(data.num_classes is not None, "data.num_classes", "null", what)
        streamed = data.name.startswith("wds/")
        there = data.root is not None and Path(data.root).is_dir()
        require(not streamed or there, "data.root", data.root, f"give the folder of {data.name}'s shards")
        return data
    if data.name not in CLASSES:
        names = ", ".join([*CLASSES, *FOLDER_DATASETS])
        raise SpecError(f"data.name={data.name}: unknown; there are {names}, and timm's, as hfds/OWNER/NAME")
    data = replace(data, root=str(data.root or DEFAULT_ROOT / data.name))
    if not is_present(data) and not data.download:
        raise SpecError(
            f"data.root={data.root}: {data.name} is not there; put {wanted_files(data)} there or download=true"
        )
    return data


def is_present(data: DataSpec) -> bool:
    """Whether the files of a downloadable dataset are on this machine."""
    if data.name == "fashion_mnist":
        return fashion_mnist_folder(data) is not None
    return (Path(str(data.root)) / DOWNLOADS[data.name]).is_dir() if data.name in DOWNLOADS else True


def fashion_mnist_folder(data: DataSpec) -> Path | None:
    """The first folder that holds Fashion-MNIST's four idx files, plain or gzipped."""
    names = [name for pair in FASHION_FILES.values() for name in pair]
    root = Path(data.root or DEFAULT_ROOT / data.name)
    for folder in (root, root / "FashionMNIST" / "raw", FASHION_DEBIAN):
        if all((folder / name).is_file() or (folder / f"{name}.gz").is_file() for name in names):
            return folder
    return None


def wanted_files(data: DataSpec) -> str:
    if data.name == "fashion_mnist":
        return "Fashion-MNIST's four *-ubyte.gz files"
    return f"the unpacked folder {DOWNLOADS[data.name]}"


def split_folder(data: DataSpec, split: str) -> Path:
    """The folder of an ImageFolder's split ("train" or "test"). Raises SpecError where there is none."""
    root = Path(data.root or ".")
    named = data.train_split if split == "train" else data.test_split
    tried = (named, *SPLIT_FOLDERS[split])
    for name in tried:
        if (root / name).is_dir():
            return root / name
    raise SpecError(f"data.root={data.root}: has no folder {' or '.join(dict.fromkeys(tried))}")


def _complete_folder(data: DataSpec) -> DataSpec:
    layout = "the folder that holds train/ and val/, each with a folder per class"
    require(data.root is not None, "data.root", "null", f"give {layout}")
    require(Path(str(data.root)).is_dir(), "data.root", data.root, f"is not there; give {layout}")
    classes = {}
    for split in ("train", "test"):
        folder = split_folder(data, split)
        classes[split] = sorted(path.name for path in folder.iterdir() if path.is_dir())
        require(bool(classes[split]), "data.root", data.root, f"{folder} holds no folder per class")
    same = classes["train"] == classes["test"]
    require(same, "data.root", data.root, "the training and the test split have different class folders")
    count = len(classes["train"])
    fits = data.num_classes in (None, count)
    require(fits, "data.num_classes", data.num_classes, f"{data.root} has {count} class folders")
    return replace(data, num_classes=count)
