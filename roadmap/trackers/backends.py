"""The trackers: one class each, which writes runs with the tracker's own library.

`open(run)` begins the tracker's run anew: what an earlier session wrote of it is replaced. `log` adds a point, `finish`
the results and the status (completed, diverged, failed, or `interrupted`: the run has no record yet).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from roadmap.trackers.points import Point, Run, flatten

COMPLETED, INTERRUPTED = "completed", "interrupted"


class RunWriter(Protocol):
    """A run of a tracker."""

    def log(self, point: Point) -> None: ...
    def finish(self, results: Mapping[str, float], status: str) -> None: ...


class Tracker(Protocol):
    """A tracker that stores its runs in a folder."""

    def open(self, run: Run) -> RunWriter: ...


class TensorBoard:
    """Event files in FOLDER/STUDY/STEP/RUN: `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, run: Run) -> RunWriter:
        """Begin the event file of the run."""
        from torch.utils.tensorboard import SummaryWriter

        folder = self.folder / run.study / run.step / run.name
        shutil.rmtree(folder, ignore_errors=True)
        return _TensorBoardRun(SummaryWriter(folder, flush_secs=10), run)


class _TensorBoardRun:
    def __init__(self, writer: Any, run: Run) -> None:
        self.writer, self.run = writer, run
        writer.add_text("config", f"```json\n{json.dumps(run.config, indent=1, ensure_ascii=False)}\n```")
        writer.add_text("command", f"`{run.command}`")

    def log(self, point: Point) -> None:
        for name, value in point.values.items():
            self.writer.add_scalar(name, value, point.iteration)

    def finish(self, results: Mapping[str, float], status: str) -> None:
        from torch.utils.tensorboard.summary import hparams

        kinds = (str, int, float, bool)
        settings = {key: value for key, value in flatten(self.run.config).items() if isinstance(value, kinds)}
        settings |= {"step": self.run.step, "seed": self.run.seed, "status": status}
        for summary in hparams(settings, dict(results)):
            self.writer.file_writer.add_summary(summary)
        for name, value in results.items():
            self.writer.add_scalar(name, value)
        self.writer.close()


class MLflow:
    """An SQLite file, FOLDER/mlflow.db, or the server that the environment variable MLFLOW_TRACKING_URI names."""

    def __init__(self, folder: Path) -> None:
        from mlflow import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        path = folder.absolute() / "mlflow.db"  # MLflow keeps a connection for each address
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path}")

    def open(self, run: Run) -> RunWriter:
        """Create a run in the experiment with the name of the study; delete the one of an earlier session."""
        client = self.client
        experiment = client.get_experiment_by_name(run.study)
        identity = experiment.experiment_id if experiment is not None else client.create_experiment(run.study)
        for earlier in client.search_runs([identity], f"tags.`roadmap.run` = '{run.name}'"):
            client.delete_run(earlier.info.run_id)
        tags = {"roadmap.run": run.name, "step": run.step, "label": run.label, "seed": str(run.seed)}
        tags |= {"study": run.study, "setting": run.setting, "command": run.command}
        created = client.create_run(identity, tags=tags, run_name=run.title)
        return _MLflowRun(client, created.info.run_id, run)


class _MLflowRun:
    def __init__(self, client: Any, identity: str, run: Run) -> None:
        from mlflow.entities import Param

        self.client, self.identity = client, identity
        fields = flatten(run.config)
        fields |= {"step": run.step}
        params = [Param(key, str(value)[:6000]) for key, value in fields.items()]
        for start in range(0, len(params), 100):  # the largest number that a server accepts
            client.log_batch(identity, params=params[start : start + 100])

    def log(self, point: Point) -> None:
        self._log(point.values, point.iteration)

    def _log(self, values: Mapping[str, float], iteration: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, iteration) for name, value in values.items()]
        self.client.log_batch(self.identity, metrics=metrics)

    def finish(self, results: Mapping[str, float], status: str) -> None:
        self._log(results, 0)
        self.client.set_tag(self.identity, "status", status)
        known = {COMPLETED: "FINISHED", INTERRUPTED: "KILLED"}
        self.client.set_terminated(self.identity, known.get(status, "FAILED"))


class Wandb:
    """Offline runs in FOLDER/wandb, or online ones if the environment variable WANDB_MODE is `online`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder

    def open(self, run: Run) -> RunWriter:
        """Begin a run of the project with the name of the study, in the group of its step."""
        import wandb

        identity = hashlib.sha256(f"{run.study}/{run.name}".encode()).hexdigest()[:16]
        for earlier in (self.folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(earlier)
        started = wandb.init(
            project=run.study,
            group=run.step,
            name=run.title,
            id=identity,
            config=run.config | {"step": run.step, "label": run.label, "run": run.name, "command": run.command},
            tags=[run.step[:64], f"seed={run.seed}"],
            dir=self.folder,
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            resume="allow" if os.environ.get("WANDB_MODE") == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, save_code=False),
        )
        return _WandbRun(started)


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, point: Point) -> None:
        self.run.log(point.values, step=point.iteration)

    def finish(self, results: Mapping[str, float], status: str) -> None:
        for name, value in {**results, "status": status}.items():
            self.run.summary[name] = value
        self.run.finish(exit_code=0 if status == COMPLETED else 1)


class Trackio:
    """SQLite files in FOLDER/trackio, or those in the folder that the environment variable TRACKIO_DIR names."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder / "trackio"))  # read when trackio is imported

    def open(self, run: Run) -> RunWriter:
        """Begin a run of the project with the name of the study, in the group of its step."""
        import trackio

        for earlier in _trackio_runs(run):
            earlier.delete()
        started = trackio.init(
            project=run.study,
            name=f"{run.title} {run.name}",
            group=run.step,
            config=run.config | {"step": run.step, "label": run.label, "run": run.name, "command": run.command},
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return _TrackioRun(started)


def _trackio_runs(run: Run) -> list[Any]:
    """Return the runs that an earlier session wrote of this run."""
    import trackio

    try:
        return [found for found in trackio.Api().runs(run.study) if str(found.name).endswith(f" {run.name}")]
    except ValueError:  # no such project
        return []


class _TrackioRun:
    def __init__(self, run: Any) -> None:
        self.run, self.last = run, 0

    def log(self, point: Point) -> None:
        self.run.log(point.values, step=point.iteration)
        self.last = point.iteration

    def finish(self, results: Mapping[str, float], status: str) -> None:
        self.run.log({**results, "status": status}, step=self.last)
        self.run.finish()


BACKENDS: dict[str, type[TensorBoard | MLflow | Wandb | Trackio]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "mlflow": MLflow,
    "wandb": Wandb,
}
