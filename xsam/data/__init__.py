"""Images with prompts and target masks: simulated scenes and readers of public datasets."""
