"""How nodes run: executor, spinning and quality of service. Knows nothing of segmentation."""
