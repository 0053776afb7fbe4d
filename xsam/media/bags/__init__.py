"""Bags of ROS 2 as a source, without ROS: MCAP and SQLite, compressed, split, cut off."""
