"""The content of the working folder in which the fuzz tests call commands: runs, studies, checkpoints, images."""

from __future__ import annotations

import contextlib
from pathlib import Path

from roadmap.config.designs import Layout, Member
from roadmap.records.history import History, Progress, write_progress
from roadmap.records.manifest import add_runs
from roadmap.records.record import run_folder, run_name
from roadmap.training import checkpoint
from roadmap.training.run import run
from tests.conftest import TINY
from tests.helpers import make_image_folder, make_spec, make_study

TRAINED = ("+step=gelu", *TINY)


def prepare(folder: Path) -> None:
    """Write made-up runs, the study `demo`, a trained and an interrupted run, an image folder and odd files."""
    with contextlib.chdir(folder):
        make_study(Path("experiments"))
        overrides = ["+step=baseline", "seed=0"], ["+step=training_recipe", "seed=0"], ["+step=patchify_stem", "seed=0"]
        runs = [(make_spec(Path("experiments"), *words), words) for words in overrides]
        for spec, _ in runs:
            spec.study = "demo"
        add_runs(runs, Layout([Member([], "nothing added"), Member(["training_recipe"], "with it", [])]))
        trained = make_spec(Path("experiments"), *TRAINED, "keep_checkpoint=true", "checkpoint_steps=1")
        trained.study = "trained"
        assert run(trained)["status"] == "completed"
        add_runs([(trained, list(TRAINED))], Layout())
        assert (run_folder(trained) / checkpoint.PREVIOUS).exists()
        interrupted = make_spec(Path("experiments"), *TRAINED, "seed=1")
        history = History(run_folder(interrupted), [])
        for epoch in (1, 2):
            history.append({"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch, "test_top1": 50.0}, 3.0 * epoch)
        write_progress(run_folder(interrupted), Progress(3, 10, 1, 2, 0.5, 100.0, 50.0, 60.0))
        checkpoint.save(run_folder(interrupted), run_name(interrupted), {})
        Path("weights.pt").write_bytes((run_folder(trained) / "model.pt").read_bytes())
        Path("broken.pt").write_bytes(b"not weights")
        Path("file").write_text("text")
        Path("dangling").symlink_to("nowhere")
        Path("loop").symlink_to("loop")
        make_image_folder(Path("images"), {"a": 4, "b": 4}, size=16)
