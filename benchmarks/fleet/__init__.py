"""Benchmarks of the fleet on Ray Serve: `python -m benchmarks.fleet`."""
