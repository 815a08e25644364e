"""Speed of this package, compared with what a user would use instead.

    python -m benchmarks timm      # training iterations against the components of timm's train.py
    python -m benchmarks peak      # each step's share of the processor's peak throughput
    python -m benchmarks study     # a whole study against the same runs with timm's components, one after another
    python -m benchmarks steps     # the networks of the published study against its ResNet: multiply-adds and images/s
    python -m benchmarks kernels   # our CPU kernels on and off
    python -m benchmarks compose   # planning: composing a thousand networks, against Hydra's composition of each
    python -m benchmarks search    # simulation of +study=search: how often it and simpler searches find the best
    python -m benchmarks trackers  # runs with each experiment tracker, against the same runs without one
    python -m benchmarks gpu       # on one GPU: against timm, share of peak, several runs at once, torch.compile
    python -m benchmarks commit    # runs of this version against those of another commit (--commit)

The output is Markdown, with a description of the machine. Ratios are minimum / median / maximum of the repeats. A
measurement waits until other processes are quiet, and is repeated if they were not; the last line states their load.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from benchmarks.commits import compare_with_commit
from benchmarks.composition import measure_composition
from benchmarks.cpu import compare_with_timm, measure_share_of_peak, measure_steps
from benchmarks.gpu import measure_gpu
from benchmarks.kernels import measure_kernels
from benchmarks.load import Measurements, adopt_orphans
from benchmarks.search import compare_searches
from benchmarks.study import compare_whole_study
from benchmarks.tables import CORES
from benchmarks.trackers import measure_trackers
from roadmap.config.choices import Device
from roadmap.config.schema import SpecError
from roadmap.runtime.system import cpu_name, git_state, package_versions
from roadmap.training.device import cpu_bf16_unit

BENCHMARKS = {
    "timm": compare_with_timm,
    "peak": measure_share_of_peak,
    "study": compare_whole_study,
    "steps": measure_steps,
    "kernels": measure_kernels,
    "compose": measure_composition,
    "search": compare_searches,
    "trackers": measure_trackers,
    "gpu": measure_gpu,
    "commit": compare_with_commit,
}


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=BENCHMARKS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--study-repeats", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--fashion-mnist", type=Path, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--only", default="", help="only networks or images with this text in their name")
    parser.add_argument("--minutes", type=float, default=9.5, help="gpu: parts that do not fit this time are left out")
    parser.add_argument("--surfaces", type=int, default=100, help="search: number of simulated datasets")
    parser.add_argument("--commit", default="HEAD~1", help="commit: the other commit (default: the one before)")
    options = parser.parse_args()
    options.fashion = ["data=fashion_mnist"]
    if options.fashion_mnist:
        options.fashion.append(f"data.root={options.fashion_mnist.resolve()}")
    adopt_orphans()
    options.measure, options.device = Measurements(), Device.cuda
    if options.benchmark == "gpu":  # its time is limited
        options.measure = Measurements(attempts=2, longest_wait=5)
        options.seconds = min(options.seconds, 2)
    unit = cpu_bf16_unit() or "no bf16"
    commit = f"commit {str(git_state()['commit'])[:12]}{'+' if git_state()['dirty'] else ''}"
    packages = ", ".join(f"{name} {package_versions()[name]}" for name in ("torch", "torchvision", "timm"))
    print(f"{cpu_name()} ({unit}), {CORES} cores, {platform.platform()}; {packages}; {commit}\n")
    try:
        BENCHMARKS[options.benchmark](options)
    except SpecError as error:
        raise SystemExit(f"error: {error}") from None
    if options.benchmark != "search":  # a simulation, without times
        print(f"\n{options.measure}")


if __name__ == "__main__":
    main()
