"""The segmenter node: lifecycle, requests, streams, the thread of the model."""
