"""What a network costs, counted on the network itself on the meta device: nothing is computed, no second formula.

    python -m roadmap.cost [--csv FILE]

GMACs are multiply-adds / 1e9 of convolutions and linear layers for one image, what the paper calls FLOPs.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from roadmap import paper, road
from roadmap.config import compose_network
from roadmap.network import build
from roadmap.spec import NetworkSpec


@dataclass(frozen=True)
class Cost:
    params: int
    gmacs: float
    activations: int  # numbers that convolutions and linear layers put out, for one image


def measure(spec: NetworkSpec, image_size: int) -> Cost:
    """The cost of the network of `spec` for one square image of `image_size` pixels."""
    with torch.device("meta"):
        model = build(spec, image_size).eval()
        image = torch.empty(1, spec.in_chans, image_size, image_size)
    return measure_module(model, image)


def measure_module(model: nn.Module, image: torch.Tensor) -> Cost:
    activations = 0

    def add(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    hooks = [m.register_forward_hook(add) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(params, counter.get_total_flops() / 2e9, activations)


def table(image_size: int = 224) -> pd.DataFrame:
    """Every row of the paper's Tables 10 and 11: base, step, params, gmacs, paper_gmacs."""
    rows = []
    for base, facts in paper.TABLES.items():
        for row in facts:
            if row.step in road.all_steps():
                cost = measure(compose_network(row.step, base), image_size)
                rows.append((base, row.step, cost.params, cost.gmacs, row.gmacs))
    return pd.DataFrame(rows, columns=["base", "step", "params", "gmacs", "paper_gmacs"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m roadmap.cost", description="Count every row of both regimes.")
    parser.add_argument("--csv", metavar="FILE", help="write the rows there too")
    options = parser.parse_args(arguments)
    rows = table()
    print(f"{'base':<10} {'step':<22} {'params':>11} {'GMACs':>8} {'paper':>7} {'diff':>7}")
    for base, step, params, gmacs, printed in rows.to_numpy().tolist():
        mark = " *" if (base, step) in paper.SLIPS else ""
        numbers = f"{params:>11,} {gmacs:>8.3f} {printed:>7.2f} {gmacs - printed:>+7.3f}"
        print(f"{base:<10} {step:<22} {numbers}{mark}")
    print("GMACs: multiply-adds / 1e9 of convolutions and linear layers, one image of 224x224 pixels.")
    print(f"* {paper.SLIP_NOTE}")
    if options.csv:
        try:
            rows.to_csv(options.csv, index=False)
        except OSError as error:
            sys.exit(f"--csv {options.csv}: {error.strerror}")


if __name__ == "__main__":
    main()
