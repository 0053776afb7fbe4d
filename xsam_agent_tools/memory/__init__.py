"""What the tools remember: scenes with their objects, past searches, matching of sightings."""
