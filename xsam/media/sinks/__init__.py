"""Outputs of a run: overlays, label images, COCO, YOLO, video, MCAP."""
