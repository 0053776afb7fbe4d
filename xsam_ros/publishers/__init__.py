"""Result output: per-camera topics, markers, semantic images, vision_msgs detections."""
