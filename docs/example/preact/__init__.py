"""Layers for a roadmap from ResNet to a pre-activation ResNet."""
