"""`xsam serve --tls-cert --tls-key` as a process, with a certificate that the test has made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.golden import GOLDEN
from support.polling import poll_until
from tests.agent.mcp.servers import server_process
from xsam import Frame, LinkDownError, Query
from xsam.remote import RemoteSegmenter

pytestmark = pytest.mark.slow

if shutil.which("openssl") is None:
    pytest.skip("openssl is not installed", allow_module_level=True)

MODEL = ["-m", "xsam", "serve", str(GOLDEN / "a"), "--device", "cpu", "--threads", "1", "--port", "0"]
STARTING_S = 100.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of localhost."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command = ["openssl", *kind, *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return cert, key


@pytest.fixture(scope="module")
def url(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cert, key = (str(path) for path in files)
    log = tmp_path_factory.mktemp("serve") / "log"
    with server_process(log, *MODEL, "--tls-cert", cert, "--tls-key", key) as process:
        process.wait_for("xsam: serving on ")
        url = process.errors.split("xsam: serving on ")[1].split()[0]
        assert url.startswith("https://127.0.0.1:")
        with RemoteSegmenter(url, ca_file=files[0]) as segmenter:

            def is_ready() -> bool:
                return segmenter.status(deadline_s=20.0).state == "ready"

            poll_until(is_ready, "the model", timeout_s=STARTING_S, interval_s=0.1)
        yield url


def test_a_client_that_trusts_the_certificate_is_answered(url: str, files: tuple[Path, Path]) -> None:
    frame = Frame(rgb=np.full((48, 64, 3), 90, np.uint8))
    for address in (url, url.replace("127.0.0.1", "localhost")):
        with RemoteSegmenter(address, ca_file=files[0]) as segmenter:
            (result,) = segmenter.segment(frame, [Query(text="the red mug")], deadline_s=60.0)
            assert result.answered


def test_a_client_that_does_not_says_why(url: str) -> None:
    link = RemoteSegmenter(url, reconnect_within_s=0.5)
    with link as segmenter, pytest.raises(LinkDownError, match="certificate verify failed"):
        segmenter.status(deadline_s=10.0)


def test_without_tls_nothing_is_answered(url: str) -> None:
    plain = url.replace("https:", "http:")
    with RemoteSegmenter(plain, reconnect_within_s=0.5) as segmenter, pytest.raises(LinkDownError):
        segmenter.status(deadline_s=10.0)


def test_files_that_do_not_belong_together_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    cert, _ = files
    with server_process(tmp_path / "log", *MODEL, "--tls-cert", str(cert), "--tls-key", str(cert)) as process:
        process.seconds_until_it_ends()
        assert process.process.returncode == 1
        assert "error: " in process.errors
        assert "Traceback" not in process.errors
