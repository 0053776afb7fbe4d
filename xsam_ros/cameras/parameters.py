"""The parameters of a camera, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass

from xsam_ros.runtime.parameters import Change, parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraParameters:
    """Parameters of one camera, named '<camera>.<field>'."""

    image_topic: str = parameter(
        "",
        "Topic of the color image; empty = '/<camera>/image_raw', followed by '/compressed' if compressed.",
        topic=True,
    )
    compressed: bool = parameter(
        False, "The color topic is a sensor_msgs/CompressedImage (JPEG or PNG), not a sensor_msgs/Image."
    )
    swap_red_blue: bool = parameter(
        False, "Red and blue are swapped in the compressed color images: the publisher encodes RGB as BGR."
    )
    bit_depth: int = parameter(
        0,
        "How many bits the values of 16-bit color or gray images have; 0 = as many as the values of each "
        "image need, so that 10 to 14 bits are not nearly black.",
        unit="bit",
        minimum=0,
        maximum=16,
    )
    frame_override: str = parameter(
        "",
        "Optical frame of the camera (x right, y down, z forward), used instead of the frame_id of its "
        "images; empty = the frame_id of the images.",
        frame=True,
    )
    stamp_clock: str = parameter(
        "node",
        "Clock of the image stamps: node = the node's clock, so images with old stamps are refused; other = "
        "a clock that says nothing about the age, which then counts from arrival.",
        choices=("node", "other"),
    )
    depth_topic: str = parameter(
        "",
        "Topic of the depth image, 32FC1 in m or 16UC1 in mm, registered to the color image unless there is "
        "a depth_info_topic; empty = no depth, and no 3D locations.",
        topic=True,
    )
    depth_compressed: bool = parameter(
        False,
        "The depth topic is a sensor_msgs/CompressedImage of image transport compressedDepth (PNG or RVL), "
        "or of 16-bit PNGs.",
    )
    depth_registered: bool = parameter(
        False,
        "Depth is registered to color, pixel by pixel, although its frame_id is another one; false = depth "
        "in another frame is registered by the node, which needs depth_info_topic and TF.",
    )
    depth_info_topic: str = parameter(
        "",
        "Topic of the depth camera's sensor_msgs/CameraInfo, with which the node registers depth to color, "
        "by TF if their frames differ; empty = the driver registers it.",
        topic=True,
    )
    depth_rectified: bool = parameter(
        False, "The depth images are rectified: use matrix P of their camera info instead of K."
    )
    depth_nearest_m: float = parameter(
        0.3,
        "Nothing that is segmented is nearer to the camera than this. A location is refused if depth that "
        "the node registers could have missed the object, at this or a larger distance.",
        unit="m",
        minimum=0.01,
        maximum=100.0,
    )
    depth_scale: float = parameter(
        0.0,
        "Meters per unit of the depth image, for cameras that do not use m in 32FC1 and mm in 16UC1; "
        "0 = as the encoding says.",
        unit="m",
        minimum=0.0,
        maximum=1000.0,
    )
    info_topic: str = parameter(
        "",
        "Topic of the color camera's sensor_msgs/CameraInfo; empty = 'camera_info' next to the color topic "
        "if there is a depth topic, else none.",
        topic=True,
    )
    rectified: bool = parameter(
        False, "The color images are rectified: use matrix P of the camera info instead of K."
    )
    qos: str = parameter(
        "sensor_data",
        "Reliability of the subscriptions: sensor_data (best effort, fits every driver) or reliable.",
        choices=("sensor_data", "reliable"),
    )
    image_qos: str = parameter(
        "", "Reliability for the color topic alone; empty = qos.", choices=("", "sensor_data", "reliable")
    )
    depth_qos: str = parameter(
        "", "Reliability for the depth topic alone; empty = qos.", choices=("", "sensor_data", "reliable")
    )
    info_qos: str = parameter(
        "",
        "Reliability for the camera info alone; empty = qos. latched = reliable and transient local, for a "
        "driver that publishes it once.",
        choices=("", "sensor_data", "reliable", "latched"),
    )
    sync_tolerance_s: float = parameter(
        0.02,
        "Pair color and depth whose stamps differ by no more than this.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        change=Change.ANY_TIME,
    )
    max_depth_lag_s: float = parameter(
        0.2,
        "Depth often arrives later than color. If the newest frame has no depth yet, use one up to this much "
        "older that has; 0 = always the newest frame.",
        unit="s",
        minimum=0.0,
        maximum=2.0,
    )
    buffer_mb: int = parameter(
        64,
        "Memory for frames that may still be paired with depth, for color and depth each; "
        "the newest message is always kept.",
        unit="MB",
        minimum=1,
        maximum=4096,
    )
    semantic_no_class: int = parameter(
        255,
        "Pixel value for no class in the semantic image; no label has this id. 255 as in "
        "vision_msgs/LabelInfo, 0 as some consumers expect.",
        minimum=0,
        maximum=255,
    )
    stream_text: str = parameter(
        "",
        "Phrase or question of a stream that starts on activation; empty = none. Anybody can replace or stop "
        "it with SetStreamQuery, until the next activation.",
    )
    stream_rate_hz: float = parameter(
        0.0,
        "Highest rate of that stream; 0 = as fast as the model can.",
        unit="Hz",
        minimum=0.0,
        maximum=1000.0,
    )
    stream_propagate: bool = parameter(
        False,
        "The model segments some images of that stream, and their masks are carried along to the others, so "
        "that results come at the rate of the camera.",
    )
