"""Images with prompts and the masks they mean: simulated scenes and readers of public data sets."""
