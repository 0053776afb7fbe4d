"""Masks in space and time: location from depth, and instance tracking, without PyTorch."""
