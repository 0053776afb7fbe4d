"""Deterministic table-top scenes: renderer, annotations and templated language."""
