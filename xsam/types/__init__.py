"""What goes in and comes out: requests, segments, masks and locations. NumPy only."""
