"""Training: losses, prompts from ground truth, and the loop that made the tiny checkpoint."""
