"""The subcommands: one module each, with a function that takes the arguments and returns the exit code."""
