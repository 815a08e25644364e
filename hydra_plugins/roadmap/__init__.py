"""Hydra plugins of roadmap. Hydra finds them because `hydra_plugins` is a namespace package."""
