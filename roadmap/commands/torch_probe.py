"""Probe of PyTorch: `python -m roadmap.commands.torch_probe` prints what PyTorch finds on this machine as JSON.

`roadmap doctor` runs it in a separate process, because a broken driver may end or block the process.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

from roadmap.config.names import one_line


def probe() -> dict[str, Any]:
    """Return the version, devices, threads and the device and precision that `auto` selects; `errors` by topic."""
    import torch

    facts: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "gpus": [], "errors": {}}
    facts["cuda_build"] = torch.version.cuda or torch.version.hip

    def attempt(topic: str, action: Any) -> Any:
        try:
            return action()
        except Exception as error:  # a broken installation raises errors of any type
            facts["errors"][topic] = one_line(f"{type(error).__name__}: {error}")
            return None

    def gpus() -> list[str]:
        names = []
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            names.append(f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        return names

    def automatic() -> str:
        from roadmap.config.choices import Device, Precision
        from roadmap.training.device import choose_device

        device_config = choose_device(Device.auto, Precision.auto)
        torch.ones(8, 8, device=device_config.device) @ torch.ones(8, 8, device=device_config.device)
        return str(device_config)

    facts["cuda"] = attempt("CUDA", torch.cuda.is_available)
    if facts["cuda"]:
        facts["gpus"] = attempt("GPUs", gpus) or []
    for name in ("torchvision", "timm"):
        attempt(name, lambda name=name: import_module(name))
    facts["mps"] = attempt("MPS", torch.backends.mps.is_available)
    facts["auto"] = attempt("device=auto", automatic)
    return facts


if __name__ == "__main__":
    json.dump(probe(), sys.stdout)
