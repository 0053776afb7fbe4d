"""The segmenter node: lifecycle, requests, streams, and the thread that runs the model."""
