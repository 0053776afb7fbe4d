"""The launch files run against the real `launch` if ROS is installed, and always against a stand-in."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from xsam_ros.node.parameters import NodeParameters

ROOT = Path(__file__).resolve().parents[2]
_MODULES = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument",
        "IncludeLaunchDescription",
        "OpaqueFunction",
        "SetEnvironmentVariable",
    ],
    "launch.conditions": ["IfCondition"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["LaunchConfiguration", "PathJoinSubstitution", "PythonExpression"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
    "launch_ros.substitutions": ["FindPackageShare"],
}


class _Recorded:
    """Stand-in for any class of `launch`: it keeps its arguments, and the class its instances."""

    created: ClassVar[list[_Recorded]]

    def __init_subclass__(cls) -> None:
        cls.created = []

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.arguments = arguments
        self.named = named
        self.created.append(self)

    def perform(self, context: dict[str, str]) -> str:
        """Look up a launch argument, as `LaunchConfiguration` does; the context holds the arguments."""
        return context[self.arguments[0]]

    def __repr__(self) -> str:
        parts = [*map(repr, self.arguments), *(f"{name}={value!r}" for name, value in self.named.items())]
        return f"{type(self).__name__}({', '.join(parts)})"


@pytest.fixture
def launch_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-in as `launch`; the folder launch/ of this repository is not that package."""
    for name, classes in _MODULES.items():
        module = type(sys)(name)
        for class_name in classes:
            setattr(module, class_name, type(class_name, (_Recorded,), {}))
        monkeypatch.setitem(sys.modules, name, module)


def _describe(name: str) -> Any:
    spec = importlib.util.spec_from_file_location("launch_file_under_test", ROOT / "launch" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def _segmenter(description: Any, **given: str) -> Any:
    """Return the node that xsam.launch.py starts with these arguments."""
    nothing = dict.fromkeys((item.arguments[0] for item in _of(description, "DeclareLaunchArgument")), "")
    (late,) = _of(description, "OpaqueFunction")
    (node,) = late.named["function"](nothing | {"params_file": str(ROOT / "config" / "xsam.yaml")} | given)
    for value in node.named["parameters"][1].values():
        if type(value).__name__ == "ParameterValue" and value.named["value_type"] is not str:
            assert type(value.arguments[0]).__name__ == "LaunchConfiguration", "a text is no number"
    return node


def _of(description: Any, kind: str) -> list[Any]:
    return [item for item in description.arguments[0] if type(item).__name__ == kind]


@pytest.mark.usefixtures("launch_package")
def test_xsam_launch() -> None:
    description = _describe("xsam.launch.py")
    declared = {item.arguments[0] for item in _of(description, "DeclareLaunchArgument")}
    node = _segmenter(description)
    assert (node.named["package"], node.named["executable"]) == ("xsam_ros", "xsam_node")
    (profile,) = _of(description, "SetEnvironmentVariable")
    assert profile.arguments[0] == "FASTRTPS_DEFAULT_PROFILES_FILE"
    assert profile.arguments[1].arguments == ("fastdds_profile",)
    configurations = sys.modules["launch.substitutions"].LaunchConfiguration.created
    assert {item.arguments[0] for item in configurations} == declared
    assert all(item.named["description"] for item in _of(description, "DeclareLaunchArgument"))


@pytest.mark.usefixtures("launch_package")
def test_arguments_override_the_file_only_when_given() -> None:
    description = _describe("xsam.launch.py")
    plain = _segmenter(description).named
    assert plain["parameters"][1].keys() == {"use_sim_time"}
    assert plain["remappings"] == []
    given = _segmenter(
        description, cameras="front, rear", model="/m/2024", remappings="/a:=/b ~/segment:=/find"
    ).named
    model = {
        "dtype": "bfloat16",
        "llm_device": "cpu",
        "llm_weights": "int8",
        "compiled": "true",
        "threads": "2",
        "frame_cache_mib": "0",
        "engine": "remote",
        "server_url": "http://gpu:8080",
        "token_file": "/etc/xsam/token",
        "fallback": "local",
        "memory": "off",
        "memory_refresh_frames": "10",
        "memory_mb": "512",
    }
    overrides = _segmenter(description, **model).named["parameters"][1]
    overrides.pop("use_sim_time")
    assert {name: value.arguments[0].arguments[0] for name, value in overrides.items()} == {
        name: name for name in model
    }
    defaults = {row.name: row.default for row in fields(NodeParameters)}
    assert {name: value.named["value_type"] for name, value in overrides.items()} == {
        name: type(defaults[name]) for name in model
    }
    assert given["parameters"][0].arguments == ("params_file",)
    assert given["parameters"][1]["cameras"] == ["front", "rear"]
    assert given["parameters"][1]["model"].named["value_type"] is str
    assert "device" not in given["parameters"][1]
    assert given["remappings"] == [("/a", "/b"), ("~/segment", "/find")]
    with pytest.raises(ValueError, match="from:=to"):
        _segmenter(description, remappings="/a=/b")
    with pytest.raises(ValueError, match=r"'/missing\.yaml' is not a file"):
        _segmenter(description, params_file="/missing.yaml")


@pytest.mark.usefixtures("launch_package")
def test_demo_launch() -> None:
    description = _describe("demo.launch.py")
    cameras = _of(description, "Node")
    assert {camera.named["executable"] for camera in cameras} == {"xsam_camera_sim"}
    sections = yaml.safe_load((ROOT / "config" / "demo.yaml").read_text())
    assert {f"/**/{camera.named['name']}" for camera in cameras} < sections.keys()
    (included,) = _of(description, "IncludeLaunchDescription")
    declared = {item.arguments[0] for item in _of(_describe("xsam.launch.py"), "DeclareLaunchArgument")}
    assert dict(included.named["launch_arguments"]).keys() <= declared
    kinds = [type(item).__name__ for item in description.arguments[0]]
    assert kinds.index("IncludeLaunchDescription") < kinds.index("Node"), "it sets the profile for the camera"


def _path(part: Any) -> str:
    """Resolve a path substitution, with this repository as the package's share folder."""
    if isinstance(part, str):
        return part
    if type(part).__name__ == "FindPackageShare":
        return str(ROOT)
    return "/".join(_path(item) for item in part.arguments[0])


@pytest.mark.usefixtures("launch_package")
@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("launch/*.py")))
def test_programs_and_files_exist(name: str) -> None:
    description = _describe(name)
    nodes = _of(description, "Node") or [_segmenter(description)]
    assert [node for node in nodes if not (ROOT / "scripts" / node.named["executable"]).exists()] == []
    paths = [_path(item) for item in sys.modules["launch.substitutions"].PathJoinSubstitution.created]
    assert paths
    assert [path for path in paths if not Path(path).exists()] == []


def _launch_is_installed() -> bool:
    try:
        import launch
    except ImportError:
        return False
    return hasattr(launch, "LaunchDescription")  # the folder launch/ of this repository has none


@pytest.mark.skipif(not _launch_is_installed(), reason="the ROS package launch is not installed here")
@pytest.mark.parametrize("name", ["xsam.launch.py", "demo.launch.py"])
def test_with_the_real_launch(name: str) -> None:
    assert _describe(name).entities


@pytest.mark.skipif(not _launch_is_installed(), reason="the ROS package launch is not installed here")
def test_arguments_with_the_real_launch() -> None:
    """Numbers and flags stopped the launch: "value='2' is not an instance of <class 'int'>"."""
    from launch import LaunchContext
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    context = LaunchContext()
    context.launch_configurations.update(cameras="front,rear", compiled="false", threads="2", model="2024")
    nodes: list[Any] = []
    for entity in _describe("xsam.launch.py").entities:
        if isinstance(entity, (DeclareLaunchArgument, OpaqueFunction)):
            nodes += entity.execute(context) or []
    (node,) = nodes
    assert node.node_package == "xsam_ros"
