"""Estimated memory, and the number of parts of a batch that follows from it."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.schema import RunSpec
from roadmap.data.sampling import BatchSplit
from roadmap.models.complexity import measure_cost
from roadmap.models.network import build_network
from roadmap.records.record import run_folder
from roadmap.runtime.world import SINGLE_PROCESS, World
from roadmap.training import checkpoint, memory, recipe
from roadmap.training.device import choose_device
from roadmap.training.memory import USABLE, choose_accumulate, estimate_memory
from roadmap.training.metrics import Metrics
from roadmap.training.run import run
from roadmap.training.trainer import Trainer
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("folder")

GIB = 2**30
ESTIMATES: dict[str, memory.MemoryEstimate] = {}


@pytest.fixture(autouse=True)
def estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each estimate once in this module: it takes some seconds."""

    def estimate(spec: RunSpec, precision: Precision) -> memory.MemoryEstimate:
        key = repr((spec.network, spec.recipe, precision))
        if key not in ESTIMATES:
            ESTIMATES[key] = estimate_memory(spec, precision)
        return ESTIMATES[key]

    monkeypatch.setattr(memory, "estimate_memory", estimate)


def imagenet(step: str, *overrides: str) -> RunSpec:
    """Return a run at ImageNet's resolution with the paper's batch; its classes and images are those of CIFAR-100."""
    size = ("data=cifar100", "data.image_size=224", "data.stem_stride=4", "data.small_images=false", "base=resnet50")
    return compose(f"+step={step}", *size, "budget=paper", *overrides)


def test_the_estimate_counts_parameters_gradients_optimizer_and_feature_maps() -> None:
    """The memory of ResNet-50: AdamW has two states for each parameter, SGD with momentum one."""
    params = measure_cost(imagenet("baseline").network, 224).params
    sgd, adamw = (estimate_memory(imagenet(step), Precision.fp32) for step in ("baseline", "training_recipe"))
    assert sgd.fixed == pytest.approx(4 * params * 3, rel=0.1)
    assert adamw.fixed == pytest.approx(4 * params * 4, rel=0.1)
    assert 80e6 < sgd.per_image < 100e6  # the feature maps that the backward pass needs
    in_bf16 = estimate_memory(imagenet("baseline"), Precision.bf16)
    assert in_bf16.per_image == pytest.approx(sgd.per_image / 2, rel=0.1)
    with_average = estimate_memory(imagenet("training_recipe", "recipe.ema_decay=0.9"), Precision.fp32)
    assert with_average.fixed - adamw.fixed == pytest.approx(4 * params, rel=0.01)


@pytest.mark.parametrize("step", ["baseline", "separate_downsampling"])
def test_the_estimate_is_what_a_real_iteration_allocates(step: str) -> None:
    """The same count with real tensors, for a number of images from which the estimate was not made."""
    spec = compose(f"+step={step}", *TINY, "data.image_size=32")
    images = memory.MANY + 100
    model = build_network(spec.network, 32).train()
    optimizer = recipe.make_optimizer(model, spec.recipe, lr=0.1)
    with memory._Counter() as counter:
        for _ in range(2):
            batch = torch.zeros(images, spec.network.in_chans, 32, 32)
            loss = recipe.training_loss(model(batch), torch.zeros(images, dtype=torch.int64), spec.recipe)
            loss.backward()
            del batch, loss
            optimizer.step()
    own = sum(parameter.numel() * 4 for parameter in model.parameters())  # made before the count
    estimate = estimate_memory(spec, Precision.fp32).for_images(images)
    assert counter.peak + own == pytest.approx(estimate, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("step", ["baseline", "separate_downsampling"])
def test_the_estimate_is_close_to_what_a_gpu_allocates(step: str) -> None:
    spec = imagenet(step)
    model = build_network(spec.network, 224).cuda().to(memory_format=torch.channels_last).train()
    optimizer = recipe.make_optimizer(model, spec.recipe, lr=0.1)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        images = torch.zeros(128, 3, 224, 224, device="cuda").contiguous(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(images)
        recipe.training_loss(logits, torch.zeros(128, dtype=torch.int64, device="cuda"), spec.recipe).backward()
        optimizer.step()
    estimate = estimate_memory(spec, Precision.bf16).for_images(128)
    assert torch.cuda.max_memory_allocated() == pytest.approx(estimate, rel=0.25)


@pytest.mark.parametrize("world", [SINGLE_PROCESS, World(0, 8, 0, 8)], ids=["one GPU", "eight GPUs"])
@pytest.mark.parametrize("gib", [16, 80])
@pytest.mark.parametrize("step", ["training_recipe", "separate_downsampling"])
def test_the_paper_s_batch_is_split_into_as_few_parts_as_fit(step: str, gib: int, world: World) -> None:
    spec = imagenet(step)
    parts = choose_accumulate(spec, 4096, world, gib * GIB, Precision.bf16)
    estimate = memory.estimate_memory(spec, Precision.bf16)

    def largest(count: int) -> int:
        return max(map(len, BatchSplit.of(spec, 4096, world, count).parts))

    assert estimate.for_images(largest(parts)) <= USABLE * gib * GIB
    assert parts == 1 or estimate.for_images(largest(parts - 1)) > USABLE * gib * GIB
    assert (parts > 1) is (world.size == 1 or gib == 16)


def test_parts_hold_whole_groups_of_batch_norm_also_if_the_memory_is_too_small() -> None:
    spec = imagenet("training_recipe")
    assert spec.recipe.norm_batch_size == 128
    assert choose_accumulate(spec, 4096, SINGLE_PROCESS, 2 * GIB, Precision.bf16) == 32
    assert choose_accumulate(spec, 4096, World(0, 4), 2 * GIB, Precision.bf16) == 8
    without_batch_norm = imagenet("separate_downsampling")
    assert choose_accumulate(without_batch_norm, 4096, SINGLE_PROCESS, 2 * GIB, Precision.bf16) > 32


def test_a_small_batch_is_one_part_without_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    """An estimate takes longer than many a training iteration of a small network."""
    monkeypatch.setattr(memory, "estimate_memory", pytest.fail)
    spec = compose("+step=separate_downsampling", "base=nano", "data=digits")
    assert choose_accumulate(spec, 64, SINGLE_PROCESS, 4 * GIB, Precision.fp32) == 1
    asked = compose("+step=separate_downsampling", "base=nano", "data=digits", "accumulate=3")
    assert choose_accumulate(asked, 64, SINGLE_PROCESS, 0, Precision.fp32) == 3


def test_the_record_has_the_chosen_number_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("roadmap.training.batches.choose_accumulate", Mock(return_value=2))
        chosen = run(compose("+step=layer_norm", *TINY))
    assert chosen["status"] == "completed" and chosen["device"]["accumulate"] == 2
    asked = compose("+step=layer_norm", *TINY, "accumulate=2")
    assert run(asked)["started_at"] == chosen["started_at"], "the number of parts is not in the hash"


def test_a_run_resumes_with_the_number_of_parts_with_which_it_began() -> None:
    """The last bits of its results depend on this number."""
    begun = compose("+step=layer_norm", *TINY, "accumulate=2", "keep_checkpoint=true")
    assert run(begun)["status"] == "completed"
    folder = run_folder(begun)
    assert (checkpoint.accumulate_of(folder, 1), checkpoint.accumulate_of(folder, 2)) == (2, 1)
    assert checkpoint.accumulate_of(folder / "missing", 1) == 1
    (folder / "record.json").unlink()
    resumed = run(compose("+step=layer_norm", *TINY))
    assert (resumed["status"], resumed["device"]["accumulate"]) == ("completed", 2)
    assert run(compose("+step=layer_norm", *TINY, "force=true"))["device"]["accumulate"] == 1


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")], ids=["cpu", "cuda"])
def test_an_out_of_memory_error_names_the_number_of_parts(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "train_iteration", fail)
    record = run(compose("+step=layer_norm", *TINY, "accumulate=2"))
    assert record["status"] == "failed"
    assert record["error"].endswith("with accumulate=2; use a larger one, which needs less memory")


def test_the_memory_of_this_machine_is_known() -> None:
    assert 2**28 < choose_device(Device.cpu, Precision.fp32).memory_bytes() < 2**50
    assert Metrics().accumulate == 1
