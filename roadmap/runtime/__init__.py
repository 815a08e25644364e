"""Services of one process: random numbers, distributed training, signals, locks, files, logging, system facts."""
