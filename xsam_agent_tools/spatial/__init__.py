"""Geometry for language models: relations, contact, locations, colors."""
