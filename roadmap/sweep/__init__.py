"""Many runs: Hydra's sweeper, the local scheduler, cluster launchers and the runtime estimate."""
