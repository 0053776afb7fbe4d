"""Start the segmenter node.

ros2 launch xsam_ros xsam.launch.py params_file:=my_robot.yaml namespace:=robot1
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, PythonExpression
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


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
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="Take the time from /clock"),
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value="",
            description="Fast DDS profile, for example config/fastdds_large_images.xml of this package if "
            "all cameras are on this machine; empty = what the environment says",
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
            Node(
                package="xsam_ros",
                executable="xsam_node",
                name=LaunchConfiguration("name"),
                namespace=LaunchConfiguration("namespace"),
                parameters=[
                    LaunchConfiguration("params_file"),
                    {"use_sim_time": LaunchConfiguration("use_sim_time")},
                ],
                arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
                output="screen",
            ),
        ]
    )
