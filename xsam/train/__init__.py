"""Training of all stages: recipes, losses, the training loop, and publishing of the tiny checkpoint."""
