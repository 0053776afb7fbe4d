"""Messages of cameras → NumPy, without ROS: whatever has the fields of `sensor_msgs` will do.

The node passes messages of `rclpy`, bags those that `xsam.media.bags` decodes.
"""
