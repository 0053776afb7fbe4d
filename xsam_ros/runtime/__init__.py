"""How nodes run: executor, spinning, parameter tables and QoS. Knows nothing of segmentation."""
