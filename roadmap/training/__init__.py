"""One run from its spec to its record: recipe, device, trainer, evaluation, checkpoints."""
