"""Conversions between ROS messages and `xsam` types: queries, results, locations, frames, images.

Nothing in an incoming message is trusted: counts and sizes are bounded, enums are checked, and masks are
verified before they are decoded. Bad input raises a typed error whose message goes back to the sender.

Outgoing messages get exactly the type of each field. A float field that holds an integer or a NumPy scalar
looks fine in Python, and then aborts the whole process when the message is sent.
"""
