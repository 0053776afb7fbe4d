"""Evaluation of a checkpoint through the engine's public door."""
