"""The hub is asked briefly: a silent one costs seconds, a missing one nothing, and neither is remembered for ever."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from eyechart import hub
from eyechart.hub import explain_absence, hub_bounded, hub_state


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    hub._answers.cache_clear()
    yield
    hub._answers.cache_clear()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that accepts the connection and never answers, as with some firewalls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "_PATIENCE", 0.3)
        yield


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield
        server.shutdown()


def test_a_silent_hub_is_left_alone_for_the_block_and_asked_once(silent: None) -> None:
    began = time.monotonic()
    for _ in range(3):
        with hub_bounded("some/model"):
            assert hub.constants.is_offline_mode()
    assert not hub.constants.is_offline_mode()
    assert time.monotonic() - began < 30, "three times 0.3 s even if none was remembered; minutes if the hub decided"
    assert hub_state() == "the hub cannot be reached"


def test_a_hub_that_answers_is_used(answering: None) -> None:
    with hub_bounded("some/model"):
        assert not hub.constants.is_offline_mode()
    assert hub_state() == "the hub denies access to it"
    told = explain_absence("some/model", "model.llm", OSError("some/model is gated\nlong advice"))
    assert told == (
        "model.llm: some/model is neither a folder here nor in the local hub cache, and the hub denies access to it "
        "(some/model is gated)"
    )


def test_offline_by_wish_stays_offline_and_says_so(answering: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with hub_bounded("some/model"):
        assert hub.constants.is_offline_mode()
    assert hub.constants.is_offline_mode()
    assert "HF_HUB_OFFLINE forbids access to the hub" in explain_absence("some/model", "model.llm", OSError("no"))


def test_a_folder_asks_nobody(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_answers", lambda *_: pytest.fail("asked"))
    with hub_bounded(str(tmp_path)):
        assert not hub.constants.is_offline_mode()


def test_a_block_that_raises_leaves_nothing_behind(silent: None) -> None:
    with pytest.raises(OSError, match="gone"), hub_bounded("some/model"):
        raise OSError("gone")
    assert not hub.constants.is_offline_mode()
