"""Local server for the report of a running training; the page is updated when the run's files change."""

import hashlib
import socketserver
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tactile_align.errors import InputError
from tactile_align.viz.report.page import LIVE_POLICY, filled
from tactile_align.viz.report.report import plotlyjs, render
from tactile_align.viz.report.run_folder import read_run

ADDRESS = "127.0.0.1"
PORT = 8765
SHOWN_FILES = ("config.toml", "metrics.jsonl", "summary.json", "verification.json", "doctor.json")
HEADERS = {"Content-Security-Policy": LIVE_POLICY, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class LivePage:
    """Report page of a run, rendered again only if a file of the run has changed.

    Args:
        run: The run folder.

    Raises:
        FileNotFoundError: `run` is not a run folder.
        InputError: A file of the run is damaged; the message names the file.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run)
        read_run(self.folder)
        self._library = plotlyjs()
        self._lock = threading.Lock()
        self._made: tuple[str, bytes] = ("", b"")

    def version(self) -> str:
        """Return a hash that changes whenever a file that the page shows changes."""
        files = [self.folder / name for name in SHOWN_FILES] + sorted((self.folder / "pictures").rglob("*.*"))
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
        return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]

    def page(self) -> bytes:
        """Return the HTML of the page, UTF-8.

        Raises:
            OSError, InputError: A file of the run is missing or damaged.
        """
        with self._lock:
            version = self.version()  # taken before the files are read, so that the next request shows a later change
            if version != self._made[0]:
                run = replace(read_run(self.folder), live=True)
                self._made = version, render([run], self._library, version).encode()
            return self._made[1]


class Server(ThreadingHTTPServer):
    """HTTP server of one page on 127.0.0.1; other machines cannot reach it.

    Args:
        page: The page.
        port: The port; 0: any free port.
    """

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        self.page = page
        super().__init__((ADDRESS, port), _Handler)

    def server_bind(self) -> None:
        """Bind the address without the host name lookup that http.server would do."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 10  # s after which a silent client loses its thread

    def do_GET(self) -> None:
        # A foreign web page can resolve its own name to 127.0.0.1 (DNS rebinding); the Host header shows that name.
        hosts = self.headers.get_all("Host", [])
        if hosts not in ([f"{name}:{self.server.server_port}"] for name in (ADDRESS, "localhost")):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, "text/plain", b"This page can only be opened on this machine.\n")
            return
        try:
            if self.path == "/":
                self._send(HTTPStatus.OK, "text/html", self.server.page.page())
            elif self.path == "/version":
                self._send(HTTPStatus.OK, "text/plain", self.server.page.version().encode())
            else:
                self._send(HTTPStatus.NOT_FOUND, "text/plain", b"Not found. The only page is /\n")
        except (OSError, InputError) as error:
            text = filled("report/waiting.html", error=str(error))
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/html", text.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), **HEADERS}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing; an open page sends a request every two seconds and would fill the terminal."""


def watch(run: str | Path, port: int = PORT, tell: Callable[[str], object] = print) -> None:
    """Serve the report page of a running training until Ctrl-C is pressed.

    Only this machine can reach the page. Requests that use another host name are refused. Nothing is fetched from the
    network.

    Args:
        run: The run folder.
        port: The port; 0: any free port.
        tell: Function that is called with the address of the page as soon as the page is served.

    Raises:
        FileNotFoundError: `run` is not a run folder.
        OSError: The port is already in use.
        InputError: `port` is not a port number, or a file of the run is damaged.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"port must be 0 to 65535; got {port}. Use --port 0 for any free port")
    page = LivePage(run)
    try:
        server = Server(page, port)
    except OSError as error:
        raise OSError(f"cannot use port {port} of {ADDRESS}: {error.strerror}. Use --port 0 for a free port") from error
    with server, suppress(KeyboardInterrupt):
        tell(f"http://{ADDRESS}:{server.server_port}")
        server.serve_forever()
