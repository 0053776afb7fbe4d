"""Cameras in: subscriptions keep the newest messages, and only a frame that is used is decoded."""
