"""Short measurements of the training of a network on this device: for plans, and for the number of runs per GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import DeviceType

from roadmap.config.choices import Device
from roadmap.config.schedule import make_schedule
from roadmap.config.schema import RunSpec
from roadmap.data.images import Batch
from roadmap.data.loaders import Loader
from roadmap.data.sampling import BatchSplit
from roadmap.models.complexity import measure_cost
from roadmap.training.batches import Batches
from roadmap.training.device import DeviceConfig, choose_device
from roadmap.training.metrics import Metrics
from roadmap.training.trainer import Trainer

# Multiply-adds of the forward passes of a measured batch: less keeps a device busy for too short a time.
BATCH_MACS = {"cpu": 5e9, "mps": 1e11}
GPU_BATCH_MACS = 1e12
WARM_UP = 2  # iterations
CUDA_CONTEXT_BYTES = 600 * 2**20  # of a process on a GPU, besides its tensors: libraries and kernels


@dataclass(frozen=True)
class Throughput:
    """What was measured, in one process."""

    device: str
    setup_seconds: float  # until the first iteration
    train: float  # images/s of augmentation, forward pass, backward pass and update
    evaluation: float  # images/s of an evaluation


@dataclass(frozen=True)
class GpuUse:
    """What one run takes of a GPU."""

    busy: float  # share of the time in which the GPU computes; 0 if the profiler saw nothing
    memory: float  # bytes of its process
    available: float  # bytes that this process and other new ones can have


class RandomImages(Loader):
    """Loader that yields the same batch of random images again and again."""

    def __init__(self, spec: RunSpec, batch_size: int, device: torch.device) -> None:
        self.augments = not spec.data.small_images  # as loader processes do, whose work is not measured
        self.num_images = self.batch_size = batch_size
        self.iterations_per_epoch = 1
        size, classes = spec.data.image_size, spec.network.num_classes or 2
        self.images = torch.randint(256, (batch_size, spec.network.in_chans, size, size), dtype=torch.uint8)
        self.images = self.images.to(device if spec.data.small_images else "cpu")
        self.labels = torch.arange(batch_size) % classes

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batch without end."""
        positions = torch.arange(self.batch_size)
        while True:
            yield Batch(self.images, self.labels.to(self.images.device), positions, positions)


def measure_throughput(spec: RunSpec, seconds: float = 1.0) -> Throughput:
    """Train and evaluate the network of `spec` for about `seconds` each, on random images.

    Reading and decoding of image files and torch.compile are not measured. Raises SpecError if the device is absent.
    """
    started = time.perf_counter()
    device_config = choose_device(spec.device, spec.precision)
    spec = replace(spec, compile=False, weights=None)
    training = _Training(spec, _measured_batch_size(spec, device_config), device_config)
    setup_seconds = time.perf_counter() - started
    train = training.images_per_second(seconds)
    training.trainer.model.eval()
    evaluation = _images_per_second(training.classify, training.batch_size, seconds / 2, device_config)
    return Throughput(device_config.name(), setup_seconds, train, evaluation)


def measure_gpu_use(spec: RunSpec, seconds: float = 1.0) -> GpuUse:
    """Train the network of `spec` on a GPU for about `seconds`, with the batches of the run, on random images.

    Raises SpecError if there is no GPU.
    """
    device_config = choose_device(Device.cuda, spec.precision)
    spec = replace(spec, compile=False, weights=None)
    training = _Training(spec, spec.budget.batch_size or spec.recipe.batch_size, device_config)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        training.images_per_second(seconds)
        elapsed = time.perf_counter() - started
    on_gpu = [event for event in profiler.key_averages() if event.device_type is DeviceType.CUDA]
    busy = 1e-6 * sum(event.self_device_time_total for event in on_gpu if not event.is_user_annotation)
    free, _ = torch.cuda.mem_get_info()
    own = torch.cuda.max_memory_reserved()
    return GpuUse(min(1.0, busy / elapsed), own + CUDA_CONTEXT_BYTES, float(free + own))


def _measured_batch_size(spec: RunSpec, device_config: DeviceConfig) -> int:
    """Return an even number of images, at most a batch of the run, that keeps the device busy."""
    macs = 1e9 * measure_cost(spec.network, spec.data.image_size).gmacs
    wanted = BATCH_MACS.get(device_config.device.type, GPU_BATCH_MACS) / macs
    largest = spec.budget.batch_size or spec.recipe.batch_size
    return max(2, int(min(max(wanted, 8), largest)) // 2 * 2)


class _Training:
    """Training iterations on random images; the first ones are done."""

    def __init__(self, spec: RunSpec, batch_size: int, device_config: DeviceConfig) -> None:
        self.batch_size, self.device_config = batch_size, device_config
        batches = random_batches(spec, batch_size, device_config.device)
        self.trainer = Trainer(spec, device_config, Metrics(), batches=batches)
        self.forward = self.trainer.wrap_model()
        self.images = self.trainer.augment.augment_in_chunks(batches.train.epoch(0), 0)
        self.test_batch = next(batches.test.epoch(0))
        # Small images are augmented in chunks: as many images as in whole chunks belong to each measurement.
        chunk = self.trainer.augment.chunk_images
        self.chunk = batch_size if batches.train.augments else -(-chunk // batch_size) * batch_size
        self.trainer.model.train()
        for _ in range(WARM_UP):
            self.train_iteration()
        device_config.synchronize()

    def train_iteration(self) -> int:
        """Do a training iteration and return its number of images."""
        self.trainer.train_iteration(self.forward, self.images)
        return self.batch_size

    def images_per_second(self, seconds: float) -> float:
        """Return the training images/s."""
        return _images_per_second(self.train_iteration, self.chunk, seconds, self.device_config)

    @torch.no_grad()
    def classify(self) -> int:
        """Classify a batch and return its number of images."""
        with self.device_config.autocast():
            logits: Tensor = self.trainer.model(self.trainer.augment.normalize(self.test_batch.images))
        return len(logits)


def random_batches(spec: RunSpec, batch_size: int, device: torch.device) -> Batches:
    """Return the batches of a run that trains and is evaluated on random images."""
    images = RandomImages(spec, batch_size, device)
    schedule = replace(make_schedule(spec.recipe, spec.budget, 10 * batch_size), batch_size=batch_size)
    return Batches(schedule, BatchSplit.of(spec, batch_size), images, images)


def _images_per_second(work: Callable[[], int], chunk: int, seconds: float, device_config: DeviceConfig) -> float:
    """Return the images/s of calls of `work`, which returns a number of images, over whole multiples of `chunk`."""
    images, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds or images % chunk:
        images += work()
        if images % chunk == 0:
            device_config.synchronize()
    return images / (time.perf_counter() - started)
