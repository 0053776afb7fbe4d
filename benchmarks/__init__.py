"""Speed and memory benchmark, compared with how the reference runs the same weights: `make bench`."""
