"""Work, memory and throughput of a run before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from roadmap.config.choices import Device, Precision
from roadmap.config.compose import compose
from roadmap.config.datasets import KNOWN_DATASETS
from roadmap.data import datasets
from roadmap.models.network import build_network
from roadmap.sweep.forecast import OPERATIONS_PER_LAYER
from roadmap.training.device import choose_device
from roadmap.training.memory import dataset_bytes
from roadmap.training.metrics import Metrics
from roadmap.training.throughput import RandomImages, measure_gpu_use, measure_throughput, random_batches
from roadmap.training.trainer import Trainer
from roadmap.training.workload import Workload, count_depthwise_activations, count_workload, dataset_sizes, memory_need
from tests.conftest import FASHION, TINY
from tests.helpers import make_image_folder

pytestmark = pytest.mark.usefixtures("folder")
PAPER = ("data=imagenet", "base=resnet50", "budget=paper", "plan=true")


def work_of(*overrides: str) -> Workload:
    spec = compose(*overrides)
    return count_workload(spec, dataset_sizes(spec))


def test_the_work_of_the_last_step_at_the_paper_s_scale_is_counted_without_imagenet() -> None:
    work = work_of("+step=separate_downsampling", *PAPER)
    assert (work.batch_size, work.iterations) == (4096, 300 * (1_281_167 // 4096))
    assert work.train_images == work.iterations * 4096
    assert (work.num_test, work.eval_images) == (50_000, 10 * 50_000)
    assert work.cost.params == 28_589_128
    assert work.checkpoint_bytes == 4 * 28_589_128 * 3  # parameters and AdamW's two states
    assert work.weights_bytes == 4 * 28_589_128
    # 3, 3, 9 and 3 blocks at 56, 28, 14 and 7 pixels
    pixels = 3 * 96 * 56**2 + 3 * 192 * 28**2 + 9 * 384 * 14**2 + 3 * 768 * 7**2
    assert work.depthwise_activations == pixels


def test_a_moving_average_is_evaluated_stored_and_written() -> None:
    own = work_of("+step=gelu")
    average = work_of("+step=gelu", "recipe.ema_decay=0.99")
    assert average.eval_images == 2 * own.eval_images
    assert average.weights_bytes == 2 * own.weights_bytes
    assert average.checkpoint_bytes == own.checkpoint_bytes * 4 / 3
    sgd, without = (
        work_of("+step=baseline"),
        work_of("+step=gelu", "save_weights=false"),
    )
    assert sgd.checkpoint_bytes == 4 * sgd.cost.params * 2
    assert without.weights_bytes == 0
    with torch.device("meta"):
        spec = compose("+step=baseline")
        assert count_depthwise_activations(build_network(spec.network, 8), spec) == 0


def test_the_sizes_of_known_datasets_are_those_of_their_files() -> None:
    assert dataset_sizes(compose("+step=gelu")) == KNOWN_DATASETS["digits"].sizes
    splits = datasets.load(compose("+step=gelu").data, compose("+step=gelu").budget)
    assert (len(splits.train), len(splits.test)) == KNOWN_DATASETS["digits"].sizes  # type: ignore[arg-type]
    assert dataset_sizes(compose("data=cifar10", "data.holdout=5000")) == (45_000, 5_000)
    assert dataset_sizes(compose("data=cifar10", "budget.train_images=500", "budget.test_images=100")) == (500, 100)
    assert dataset_sizes(compose("budget=smoke", "data=cifar10")) == (128, 64)


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs the files of Fashion-MNIST")
def test_the_sizes_of_fashion_mnist() -> None:
    spec = compose("data=fashion_mnist", f"data.root={FASHION}")
    splits = datasets.load(spec.data, spec.budget)
    assert (len(splits.train), len(splits.test)) == dataset_sizes(spec)  # type: ignore[arg-type]


def test_images_of_your_own_are_counted(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", {"a": 7, "b": 5})
    spec = compose("+step=gelu", "data=folder", f"data.root={root}", "budget.batch_size=4")
    assert dataset_sizes(spec)[0] == 12
    assert count_workload(spec, dataset_sizes(spec)).iterations == 10 * (12 // 4)


def test_the_memory_follows_from_the_device_and_the_number_of_processes() -> None:
    spec = compose("+step=separate_downsampling", "base=pico", "data=cifar10", "budget.batch_size=4096", "device=cpu")
    sizes = dataset_sizes(spec)
    whole = memory_need(spec, sizes, world_size=1, memory=80 * 2**30, share=1.0)
    assert (whole.accumulate, whole.fits) == (1, True)
    images = dataset_bytes(spec, sizes)
    assert images == 60_000 * 3 * 32 * 32
    half = memory_need(spec, sizes, world_size=1, memory=whole.needed + images, share=0.5)
    assert half.accumulate > 1
    assert half.fits
    assert half.needed <= half.available == (whole.needed + images) / 2 - images
    assert memory_need(spec, sizes, world_size=8, memory=whole.needed + images, share=0.5).accumulate == 1
    assert not memory_need(spec, sizes, world_size=1, memory=images + 2**20, share=1.0).fits


@pytest.mark.parametrize("step", ["baseline", "inverted_bottleneck", "separate_downsampling"])
def test_the_number_of_operations_follows_from_the_number_of_layers(step: str) -> None:
    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.count += 1
            return function(*args, **(kwargs or {}))

    spec = compose(f"+step={step}", "fast_kernels=false")
    device_config = choose_device(Device.cpu, Precision.bf16)
    batches = random_batches(spec, 16, device_config.device)
    trainer = Trainer(spec, device_config, Metrics(), batches=batches)
    forward, images = trainer.wrap_model(), trainer.augment.augment_in_chunks(batches.train.epoch(0), 0)
    next(images)  # the first chunk
    trainer.model.train()
    trainer.train_iteration(forward, images)  # the optimizer's states
    with Counter() as counter:
        trainer.train_iteration(forward, images)
    expected = OPERATIONS_PER_LAYER * count_workload(spec, dataset_sizes(spec)).num_layers
    assert 0.65 * expected < counter.count < 1.35 * expected


@pytest.mark.parametrize("small", ["true", "false"])
def test_a_measurement_trains_and_evaluates_on_random_images(small: str) -> None:
    spec = compose("+step=gelu", *TINY, "data.image_size=16", f"data.small_images={small}", "recipe.norm_batch_size=8")
    throughput = measure_throughput(spec, seconds=0.05)
    assert throughput.train > 0
    assert throughput.evaluation > throughput.train
    assert throughput.setup_seconds > 0
    assert throughput.device


def test_random_images_repeat_their_batch() -> None:
    spec = compose("+step=gelu")
    batches = RandomImages(spec, 6, torch.device("cpu")).epoch(0)
    first, second = next(batches), next(batches)
    assert first.images.shape == (6, 1, 8, 8)
    assert first.images.dtype == torch.uint8
    assert torch.equal(first.images, second.images)
    assert first.labels.max() < 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_measurement_on_a_gpu() -> None:
    throughput = measure_throughput(compose("+step=separate_downsampling", *PAPER), seconds=1)
    assert throughput.evaluation > throughput.train > 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_small_networks_leave_a_gpu_idle_and_large_ones_do_not() -> None:
    small = measure_gpu_use(compose("+step=gelu", "base=pico", "data=digits"))
    large = measure_gpu_use(compose("+step=gelu", "base=resnet50", "data=cifar10", "data.image_size=128"))
    assert 0 < small.busy < large.busy <= 1
    assert small.memory < large.memory < large.available
    assert large.busy > 0.7
