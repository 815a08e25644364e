"""One run with timm's components, as a user of timm's train.py would do it.

python -m benchmarks.timm_script --workers 1 +step=gelu ...
"""

from __future__ import annotations

import argparse

from benchmarks.sides import Case, Flags, TimmTraining
from roadmap.training.trainer import evaluated_epochs


def main() -> None:
    """Train and print the loss and the accuracy after each evaluated epoch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--fp32", action="store_true", help="float32 instead of bfloat16 autocast")
    parser.add_argument("--contiguous", action="store_true", help="contiguous memory format instead of channels_last")
    options, overrides = parser.parse_known_args()
    flags = Flags(bf16=not options.fp32, channels_last=not options.contiguous, workers=options.workers)
    training = TimmTraining(Case("script", tuple(overrides)), flags)
    evaluated = evaluated_epochs(training.schedule, training.spec.budget.evaluations)
    for epoch in range(1, training.schedule.epochs + 1):
        for _ in range(len(training.loader)):
            training()
        if epoch in evaluated:
            print(f"epoch {epoch}: loss {training.losses.avg:.3f}, top-1 {training.accuracy():.2f} %", flush=True)


if __name__ == "__main__":
    main()
