"""What a fleet accepts as its configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("fastapi", reason="fastapi is not installed")

from tests.docs.documents import ROOT
from xsam.errors import InvalidOptionError
from xsam_server.fleet.options import FleetOptions, check_ongoing, read_options
from xsam_server.fleet.starting import read_config

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray
EXAMPLES = ("fleet_one_machine.yaml", "fleet_cluster.yaml", "fleet_kuberay.yaml")


def test_the_defaults_are_in_order() -> None:
    options = read_options({})
    assert options == FleetOptions()
    assert options.most_replicas == 1
    assert options.settings().clients == ()


def test_the_model_would_be_idle_if_a_replica_held_no_more_than_one_call_takes() -> None:
    """Batches never fill if `max_ongoing_requests` is too low, and nothing is there for the next call."""
    with pytest.raises(InvalidOptionError, match=r"max_ongoing_requests is 1.*set it to 2 or more"):
        read_options({"max_ongoing_requests": 1})
    for max_ongoing, requests_per_call in ((4, 8), (8, 8)):
        with pytest.raises(InvalidOptionError, match=f"a call of the model takes {requests_per_call}"):
            check_ongoing(max_ongoing, requests_per_call=requests_per_call)
    check_ongoing(9, requests_per_call=8)
    assert read_options({"max_ongoing_requests": 2}).max_ongoing_requests == 2


def test_the_queue_of_a_replica_has_room_for_all_that_ray_sends_it() -> None:
    options = read_options({"max_ongoing_requests": 7})
    assert options.settings().queue_size >= 7


def test_the_ingress_takes_more_than_all_replicas_and_the_queue() -> None:
    """Else Ray's proxy would refuse requests itself, with a text instead of a typed answer."""
    options = read_options({"max_replicas": 10, "max_ongoing_requests": 20, "max_queued_requests": 300})
    assert options.ingress_ongoing_requests > 500


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ({"max_replica": 2}, "max_replica"),
        ({"min_replicas": 0}, "min_replicas"),
        ({"min_replicas": 3, "max_replicas": 2}, "max_replicas is 2"),
        ({"target_ongoing_requests": 9}, "target_ongoing_requests is 9"),
        ({"num_gpus": -1}, "num_gpus"),
        ({"num_gpus": float("nan")}, "num_gpus"),
        ({"drain_s": "long"}, "drain_s"),
    ],
)
def test_a_wrong_option_is_named(args: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        read_options(args)


def _config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    return path


CONFIG = """
http_options: {{host: {host}, port: 8080}}
applications:
  - import_path: xsam_server.fleet:app
    args: {args}
"""


def _example(name: str) -> str:
    text = (ROOT / "config" / name).read_text()
    return str(yaml.safe_load(text)["spec"]["serveConfigV2"]) if "kuberay" in name else text


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_in_order(name: str, tmp_path: Path) -> None:
    text = _example(name)
    tokens = tmp_path / "tokens"
    tokens.write_text("spot secret-of-spot\n")
    tokens.chmod(0o600)
    http, options = read_config(_config(tmp_path, text.replace("/etc/xsam/tokens", str(tokens))))
    assert http["port"] in (8000, 8080)
    assert options.max_ongoing_requests > 1


def test_an_open_address_needs_tokens(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.7"):
        with pytest.raises(InvalidOptionError, match="other machines could use the model"):
            read_config(_config(tmp_path, CONFIG.format(host=host, args="{}")))
    without_host = "applications:\n  - import_path: xsam_server.fleet:app\n"
    with pytest.raises(InvalidOptionError, match="other machines could use the model"):
        read_config(_config(tmp_path, without_host))
    http, _ = read_config(_config(tmp_path, CONFIG.format(host="127.0.0.1", args="{}")))
    assert http["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a: [", "no configuration file"),
        ("", "no configuration file"),
        ("applications: []", "one application"),
        ("applications: [{import_path: other:app}]", "import_path"),
        (CONFIG.format(host="127.0.0.1", args="{max_ongoing_requests: 1}"), "max_ongoing_requests"),
        (
            CONFIG.format(host="127.0.0.1", args="{}")
            + "    deployments: [{name: EngineReplica, max_ongoing_requests: 1}]",
            "behind the back",
        ),
        (CONFIG.format(host="127.0.0.1", args="{}") + "    route_prefix: /xsam", "route_prefix"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        read_config(_config(tmp_path, text))
