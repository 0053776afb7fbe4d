"""Tokens from a file, and the limits of each client."""

from __future__ import annotations

from pathlib import Path

import pytest

from xsam import InvalidOptionError, RateLimitError
from xsam_server.clients import ClientLimits, read_token_file
from xsam_server.settings import Client


def _file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "tokens"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_token_file(tmp_path: Path) -> None:
    text = "# robots\n\nspot  secret-of-spot per_s=2.5 concurrent=2\narm-1 secret-of-the-arm # on the table\n"
    assert read_token_file(_file(tmp_path, text)) == (
        Client(name="spot", token="secret-of-spot", requests_per_s=2.5, concurrent=2),
        Client(name="arm-1", token="secret-of-the-arm"),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "names no client"),
        ("spot", "line 1: a name or a token is missing"),
        ("a ok-ok-ok-1\nspot short", "line 2: a token needs 8"),
        ("sp/ot sesame-sesame", "line 1: a name has"),
        ("spot sesame-sesame rate=2", "unknown or repeated option 'rate'"),
        ("spot sesame-sesame per_s=1 per_s=2", "unknown or repeated option 'per_s'"),
        ("spot sesame-sesame per_s=0", "per_s must be a positive number, got '0'"),
        ("spot sesame-sesame per_s=nan", "per_s must be a positive number"),
        ("spot sesame-sesame concurrent=1.5", "concurrent must be a whole number"),
        ("spot sesame-sesame\nspot sesame-sesame-2", "the same name"),
        ("spot sesame-sesame\narm sesame-sesame", "the same token"),
    ],
)
def test_wrong_token_files(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named) as caught:
        read_token_file(_file(tmp_path, text))
    assert "sesame" not in str(caught.value)


def test_a_token_file_that_everybody_may_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="every user") as caught:
        read_token_file(_file(tmp_path, "spot secret-of-spot", 0o644))
    assert "chmod 600" in caught.value.hint
    assert read_token_file(_file(tmp_path, "spot secret-of-spot", 0o640))


class _Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def _times_admitted(limits: ClientLimits, name: str) -> int:
    count = 0
    while count < 100:
        try:
            with limits.admit(name):
                count += 1
        except RateLimitError:
            break
    return count


def test_a_rate_allows_a_burst_and_fills_again() -> None:
    clock = _Clock()
    clients = [Client(name="spot", token="a" * 8, requests_per_s=4.0), Client(name="arm", token="b" * 8)]
    limits = ClientLimits(clients=clients, clock=clock)
    assert _times_admitted(limits, "spot") == 4
    with pytest.raises(RateLimitError, match="spot sends more than 4 requests a second") as caught:
        limits.admit("spot").__enter__()
    assert caught.value.retry_after_s == pytest.approx(0.25)
    assert _times_admitted(limits, "arm") == 100, "the limits of one client are not those of another"
    clock.now_s = 0.5
    assert _times_admitted(limits, "spot") == 2
    clock.now_s = 1000.0
    assert _times_admitted(limits, "spot") == 4


def test_a_slow_rate_is_no_ban() -> None:
    clock = _Clock()
    limits = ClientLimits(clients=[Client(name="spot", token="a" * 8, requests_per_s=0.1)], clock=clock)
    assert _times_admitted(limits, "spot") == 1
    clock.now_s = 10.1
    assert _times_admitted(limits, "spot") == 1


def test_requests_at_a_time_are_counted_until_they_end() -> None:
    limits = ClientLimits(clients=[Client(name="spot", token="a" * 8, concurrent=2)])
    with limits.admit("spot"):
        with limits.admit("spot"), pytest.raises(RateLimitError, match="2 requests running"):
            limits.admit("spot").__enter__()
        with pytest.raises(KeyError), limits.admit("spot"):
            raise KeyError("a request that fails is over, too")
        assert _times_admitted(limits, "spot") == 100
