"""Benchmarks of the model server and its client: `python -m benchmarks.server`."""
