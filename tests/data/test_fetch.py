# SPDX-License-Identifier: Apache-2.0
"""Downloads, from a real server on this machine that can break off and resume."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from confide.data.fetch import download, fetch
from confide.errors import DataError

CONTENT = np.random.default_rng().bytes(300_000)


class Server(ThreadingHTTPServer):
    """Sends CONTENT; at most `limit` bytes of it in one answer; with or without ranges."""

    limit = len(CONTENT)
    ranges = True
    sent = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "") if self.server.ranges else ""
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if self.path != "/file" or (asked and start >= len(CONTENT)):
            self.send_error(404 if self.path != "/file" else 416)
            return
        body = CONTENT[start:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # Counted first: the client may be done before this thread goes on.
        self.server.sent += len(body[: self.server.limit])
        self.wfile.write(body[: self.server.limit])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def url(server: Server, path: str = "file") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{path}"


def test_an_interrupted_download_goes_on(server: Server, tmp_path: Path) -> None:
    target, server.limit = tmp_path / "set.npz", 100_000
    for _ in range(2):
        with pytest.raises(DataError, match="goes on where it stopped"):
            download(url(server), target)
    assert not target.exists()
    seen: list[tuple[int, int]] = []
    found = download(
        url(server),
        target,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert target.read_bytes() == CONTENT and found.verified
    assert server.sent == len(CONTENT), "no byte was sent twice"
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(b"something else")
    server.ranges = False
    download(url(server), tmp_path / "set.npz")
    assert (tmp_path / "set.npz").read_bytes() == CONTENT


def test_a_whole_part_is_not_sent_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.npz.part").write_bytes(CONTENT)
    download(url(server), tmp_path / "set.npz", md5=hashlib.md5(CONTENT).hexdigest())
    assert server.sent == 0


def test_a_wrong_file_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not the one that was published"):
        download(url(server), tmp_path / "set.npz", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_no_network_and_no_such_file_say_where_to_put_it(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"answered 404.*copy the file to .*set\.npz"):
        download(url(server, "other"), tmp_path / "set.npz")
    port = server.server_address[1]
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match=r"cannot be reached.*copy the file to .*set\.npz"):
        download(f"http://127.0.0.1:{port}/file", tmp_path / "set.npz")


def test_sets_behind_terms_are_not_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"Put aptos2019 into"):
        fetch("aptos2019")
    with pytest.raises(DataError, match="Sizes: 28, 64, 128, 224"):
        fetch("pathmnist", size=32)
    with pytest.raises(DataError, match="data list --all"):
        fetch("nothing")
