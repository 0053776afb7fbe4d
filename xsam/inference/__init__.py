"""From a frame and queries to results: preprocess → prompts → forward → postprocess → results."""
