"""A loopback server in place of the public repositories, and make in the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

ROOT = Path(__file__).resolve().parents[1]


class Server(ThreadingHTTPServer):
    """A server that remembers what it was asked; `trouble` maps the end of a path to what goes wrong with it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.trouble: dict[str, str] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, without a line a request."""

    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        trouble = next((what for end, what in self.server.trouble.items() if self.path.endswith(end)), None)
        file = Path(self.translate_path(self.path))
        if trouble is None or not file.is_file():
            super().do_GET()
            return
        content = file.read_bytes()
        self.send_response(500 if trouble == "fails" else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if trouble == "wrong":
            self.wfile.write(bytes(len(content)))
        elif trouble == "cut":
            self.wfile.write(content[: len(content) // 2])
        self.close_connection = True


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A folder served on the loopback interface."""
    with Server(folder) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def make(*arguments: str) -> str:
    """What make prints in the checkout, in the environment of these tests and without setting one up."""
    venv = Path(sys.prefix)
    command = ["make", "-C", str(ROOT), "--no-print-directory", "-o", str(venv / ".setup"), f"VENV={venv}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
