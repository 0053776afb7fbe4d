"""Checkpoint folders: open, save, convert from the published files, download."""
