"""One run as a user of timm's train.py would make it: `python -m benchmarks.timm_script --workers 1 +step=gelu ...`."""

from __future__ import annotations

import argparse
import math

from benchmarks.sides import Case, Flags, Timms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--contiguous", action="store_true")
    options, words = parser.parse_known_args()
    flags = Flags(bf16=not options.fp32, channels_last=not options.contiguous, workers=options.workers)
    side = Timms(Case("script", tuple(words)), flags)
    steps = len(side.loader)
    evaluated = {math.ceil((i + 1) * side.plan.epochs / side.spec.budget.evaluations) for i in range(10)}
    for epoch in range(1, side.plan.epochs + 1):
        for _ in range(steps):
            side()
        if epoch in evaluated:
            print(f"epoch {epoch}: loss {side.losses.avg:.3f}, top-1 {side.accuracy():.2f} %", flush=True)


if __name__ == "__main__":
    main()
