"""Geometry and color of objects: relations, contact, locations, differences, matching."""
