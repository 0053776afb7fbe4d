"""Shared by tests, examples and benchmarks; part of the repository, not of the installed packages."""
