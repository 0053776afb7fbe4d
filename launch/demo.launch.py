"""Start two simulated cameras, one of them moving, and the segmenter node with the tiny model.

ros2 launch xsam_ros demo.launch.py
ros2 service call /xsam/segment xsam_ros/srv/Segment "{camera: table, queries: [{text: the red cup}]}"
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    share = FindPackageShare("xsam_ros")
    arguments = [
        DeclareLaunchArgument(
            "params_file",
            default_value=PathJoinSubstitution([share, "config", "demo.yaml"]),
            description="YAML file with the parameters of both nodes",
        ),
        # All processes run on this machine; without the profile most images would be lost.
        DeclareLaunchArgument(
            "fastdds_profile",
            default_value=PathJoinSubstitution([share, "config", "fastdds_large_images.xml"]),
            description="Fast DDS profile for large images; empty = leave the environment as it is",
        ),
    ]
    # The included file sets the profile for all processes started after it.
    segmenter = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "xsam.launch.py"])),
        launch_arguments={
            "params_file": LaunchConfiguration("params_file"),
            "fastdds_profile": LaunchConfiguration("fastdds_profile"),
        }.items(),
    )
    camera = Node(
        package="xsam_ros",
        executable="xsam_camera_sim",
        name="xsam_camera_sim",
        parameters=[LaunchConfiguration("params_file")],
        output="screen",
    )
    moving_camera = Node(
        package="xsam_ros",
        executable="xsam_camera_sim",
        name="xsam_moving_camera",
        parameters=[LaunchConfiguration("params_file")],
        output="screen",
    )
    return LaunchDescription([*arguments, segmenter, camera, moving_camera])
