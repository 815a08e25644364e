"""Images and labels: where they lie (`catalogue`), how they are read (`datasets`), how they reach a training step
(`loading`)."""
