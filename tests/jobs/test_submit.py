"""A job's log is followed through lost connections; a server that is gone is one clear line."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from urllib.request import urlopen

import pytest

from jobs import submit
from jobs.errors import IncompleteError


class Shaky(BaseHTTPRequestHandler):
    """Drops the connection for the first requests, then answers."""

    drops = 0

    def do_GET(self) -> None:
        if type(self).drops:
            type(self).drops -= 1
            self.connection.close()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"SUCCEEDED")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch):
    """A question to a real server on loopback."""
    monkeypatch.setattr(submit, "RETRY_S", 0.01)
    server = HTTPServer(("127.0.0.1", 0), Shaky)
    server.handle_error = lambda *_: None
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield lambda job: urlopen(f"http://127.0.0.1:{server.server_port}/{job}").read().decode()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("drops", [0, 1, submit.ASKED - 1])
def test_lost_connections_are_tried_again(ask, drops: int) -> None:
    Shaky.drops = drops
    assert submit._answer(ask, "job") == "SUCCEEDED"


def test_a_server_that_is_gone_is_said(ask) -> None:
    Shaky.drops = submit.ASKED
    with pytest.raises(
        IncompleteError, match=r"did not answer 6 times in a row .* run the same command again"
    ):
        submit._answer(ask, "job")
    Shaky.drops = 0
