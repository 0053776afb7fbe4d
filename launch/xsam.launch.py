"""Start the segmenter node.

ros2 launch xsam_ros xsam.launch.py params_file:=my_robot.yaml namespace:=robot1
ros2 launch xsam_ros xsam.launch.py cameras:=front device:=cuda remappings:=/front/image_raw:=/cam0/color
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

# Launch arguments that override a parameter: its type, and a description.
OVERRIDES = {
    "cameras": (list[str], "Names, as in front,rear"),
    "model": (str, "Name or folder"),
    "device": (str, "cpu, cuda, ..."),
    "dtype": (str, "auto, float32, bfloat16 or float16"),
    "llm_device": (str, "Device of the language model"),
    "llm_weights": (str, "as_loaded, int8 or bfloat16"),
    "compiled": (bool, "true to compile the encoders"),
    "threads": (int, "CPU threads of PyTorch, 0 for as many as other programs leave free"),
    "frame_cache_mib": (int, "Memory for features of recent frames in MiB, 0 for none"),
    "engine": (str, "local, or remote for a model server"),
    "server_url": (str, "Address of the model server"),
    "token_file": (str, "File with this node's token for the server"),
    "fallback": (str, "none or local: who answers while the server is away"),
    "memory": (str, "Memory of earlier frames in streams, auto or off"),
    "memory_refresh_frames": (int, "Frames after which the queries of a stream are read again"),
    "memory_mb": (int, "Most memory of all such sessions in MB"),
}


def generate_launch_description():
    config = PathJoinSubstitution([FindPackageShare("xsam_ros"), "config"])
    arguments = [
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node"),
        DeclareLaunchArgument("name", default_value="xsam", description="Name of the node"),
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([config, "xsam.yaml"]),
            description="YAML file with the node's parameters: model, device, cameras, ...",
        ),
        *(
            DeclareLaunchArgument(
                name, default_value="", description=f"{description}; empty = as in params_file"
            )
            for name, (_, description) in OVERRIDES.items()
        ),
        DeclareLaunchArgument(
            "remappings",
            default_value="",
            description="Remapping rules, as in from:=to from2:=to2",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Use the time on /clock"),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value="",
            description="Fast DDS profile, for example config/fastdds_large_images.xml of this package if "
            "all cameras are on this machine; empty = leave the environment as it is",
        ),
    ]
    profile = LaunchConfiguration("fastdds_profile")
    return LaunchDescription(
        [
            *arguments,
            SetEnvironmentVariable(
                "FASTRTPS_DEFAULT_PROFILES_FILE",
                profile,
                condition=IfCondition(PythonExpression(["'", profile, "' != ''"])),
            ),
            OpaqueFunction(function=_segmenter),
        ]
    )


def _segmenter(context):
    """Create the node action, once the values of the launch arguments are known."""
    file = LaunchConfiguration("params_file").perform(context)
    if not Path(file).is_file():  # launch_ros would start the node without its parameters
        raise ValueError(f"params_file: {file!r} is not a file")
    given = {name: LaunchConfiguration(name).perform(context) for name in OVERRIDES}
    overrides = {
        # The substitution, not its value, which must have the type already. A folder may be called 2024.
        name: ParameterValue(LaunchConfiguration(name), value_type=OVERRIDES[name][0])
        for name, value in given.items()
        if value and name != "cameras"
    }
    cameras = [name.strip() for name in given["cameras"].split(",") if name.strip()]
    if cameras:
        overrides["cameras"] = cameras
    remappings = [_remap(rule) for rule in LaunchConfiguration("remappings").perform(context).split()]
    return [
        Node(
            package="xsam_ros",
            executable="xsam_node",
            name=LaunchConfiguration("name"),
            namespace=LaunchConfiguration("namespace"),
            parameters=[
                LaunchConfiguration("params_file"),
                {"use_sim_time": LaunchConfiguration("use_sim_time"), **overrides},
            ],
            remappings=remappings,
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def _remap(rule):
    before, found, after = rule.partition(":=")
    if not (before and found and after):
        raise ValueError(f"remappings: {rule!r} is not of the form from:=to")
    return before, after
