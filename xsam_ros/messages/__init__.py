"""Between ROS messages and the types of `xsam`: requests, results, locations, images."""
