"""Memory of the tools: scenes with their objects, past searches, matching of sightings."""
