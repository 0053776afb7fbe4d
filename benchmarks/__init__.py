"""Speed and memory against the way the reference runs the same weights; `make bench`."""
