"""Masks at the camera's rate: a model segments keyframes, optical flow carries their masks in between."""
