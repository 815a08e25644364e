"""The exponential moving average of the weights: its values, its results and its file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.records.record import run_folder
from roadmap.sweep.run_process import summarize_record
from roadmap.training.device import choose_device
from roadmap.training.evaluation import DivergedError, evaluate
from roadmap.training.metrics import Metrics
from roadmap.training.run import run
from roadmap.training.trainer import Trainer
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("folder")


def test_the_moving_average_is_evaluated_beside_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters and running statistics: average <- decay * average + (1 - decay) * value, after each update."""
    spec = compose(
        "+step=gelu", "+ingredient=[ema]", *TINY, "recipe.ema_decay=0.75", "budget.epochs=2", "precision=fp32"
    )
    metrics = Metrics()
    trainer = Trainer(spec, choose_device(Device.cpu, Precision.fp32), metrics)
    assert trainer.ema is not None
    expected = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    update = trainer.ema.update

    def spy(model: torch.nn.Module) -> None:
        for name, value in model.state_dict().items():
            old = expected[name]
            expected[name] = 0.75 * old + 0.25 * value if value.is_floating_point() else value.clone()
        update(model)

    monkeypatch.setattr(trainer.ema, "update", spy)
    trainer.train()
    for name, value in trainer.ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    on_raw = evaluate(trainer.model, trainer.test_batches, trainer.augment, trainer.device_config, spec.data.on_error)
    on_average = evaluate(trainer.ema, trainer.test_batches, trainer.augment, trainer.device_config, spec.data.on_error)
    assert on_raw is not None and metrics.evaluation is not None and on_raw.loss == metrics.evaluation.loss
    assert on_average is not None and metrics.ema_evaluation is not None
    assert on_average.loss == metrics.ema_evaluation.loss != on_raw.loss
    assert metrics.record_fields()["ema"]["loss"] == on_average.loss
    assert metrics.curve[-1]["ema_top1"] == on_average.top1


def test_a_run_leaves_the_moving_average() -> None:
    spec = compose("+step=gelu", *TINY, "recipe.ema_decay=0.5", "budget.epochs=2")
    record = run(spec)
    raw, average = (torch.load(run_folder(spec) / name, weights_only=True) for name in ("model.pt", "model_ema.pt"))
    assert raw.keys() == average.keys() and not torch.equal(raw["head.weight"], average["head.weight"])
    assert record["ema"].keys() == {"top1", "top5", "loss"} and record["ema"]["loss"] != record["loss"]
    assert f"(EMA {record['ema']['top1']:.2f} %)" in summarize_record(record)


def test_an_average_without_a_finite_loss_has_no_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is completed with the result of the weights themselves."""

    def average_is_nan(model: Any, *arguments: Any) -> Any:
        if isinstance(model, ModelEmaV3):
            raise DivergedError("the test loss is nan")
        return evaluate(model, *arguments)

    monkeypatch.setattr("roadmap.training.trainer.evaluate", average_is_nan)
    spec = compose("+step=gelu", *TINY, "recipe.ema_decay=0.5", "budget.epochs=2")
    record = run(spec)
    assert record["status"] == "completed" and record["top1"] is not None and record["ema"] is None
    assert "test_top1" in record["curve"][-1] and "ema_top1" not in record["curve"][-1]
    message = "no result of the moving average: the test loss is nan (epoch 2, iteration 4)"
    assert message in (run_folder(spec) / "log.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "error", [DivergedError("the loss is nan"), RuntimeError("broken")], ids=["diverged", "failed"]
)
def test_a_diverged_or_failed_run_has_no_result_of_the_average(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results of an earlier epoch are not those of the run."""
    train_epoch = Trainer._train_epoch

    def fail_in_second_epoch(trainer: Trainer, *arguments: Any) -> None:
        if trainer.epoch == 1:
            raise error
        train_epoch(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_train_epoch", fail_in_second_epoch)
    overrides = (*TINY, "recipe.ema_decay=0.5", "budget.epochs=3", "budget.equal_epochs=true", "budget.evaluations=3")
    record = run(compose("+step=gelu", *overrides, "precision=fp32"))
    assert [sorted(row.keys() & {"ema_top1", "test_top1"}) for row in record["curve"]] == [["ema_top1", "test_top1"]]
    assert record["status"] == ("diverged" if isinstance(error, DivergedError) else "failed")
    assert record["ema"] is None and record["top1"] is None
