"""Memory of the tools: scenes with their objects, and past searches."""
