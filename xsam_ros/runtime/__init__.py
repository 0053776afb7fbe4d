"""How nodes run: executor, spinning, parameter tables and quality of service. Knows nothing of segmentation."""
