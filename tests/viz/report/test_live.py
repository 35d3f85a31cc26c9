"""The page of a running training: for this machine alone, and never older than the log."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tactile_align.cli import run as run_verb
from tactile_align.viz.report.live import LivePage, Server
from tests.viz.browser import CHROMIUM, needs_chromium
from tests.viz.report.running import make_run

ROOT = Path(__file__).parents[3]
WITHOUT_TORCH = """
import sys
class Refused:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            raise ImportError("torch takes seconds to import")
sys.meta_path.insert(0, Refused())
from tactile_align.__main__ import main
sys.exit(main())
"""


@pytest.fixture()
def run(tmp_path: Path) -> Path:
    """A run that has reached step 300 of 900."""
    folder = make_run(tmp_path)
    (folder / "config.toml").write_text("steps = 900\n", encoding="utf-8")
    return folder


@pytest.fixture()
def server(run: Path) -> Iterator[Server]:
    pytest.importorskip("plotly", reason="plotly is not installed")
    with Server(LivePage(run), 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: Server, path: str = "/", host: str | None = None, method: str = "GET") -> tuple[int, str]:
    """Return status and body; `host` replaces the Host header, "" leaves it out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=host is not None)
    if host:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def log(run: Path, step: int, **more: object) -> None:
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"kind": "train", "step": step, "loss": 2.0, **more}) + "\n")


def test_only_this_machine_reaches_it(server: Server) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other:  # another address of this machine: a server on 0.0.0.0 would answer
        other.settimeout(5)
        with pytest.raises(OSError):
            other.connect(("127.0.0.2", server.server_port))


def test_a_foreign_host_is_refused(server: Server) -> None:
    port = server.server_port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        assert ask(server, host=host)[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"localhost:{port + 1}",
        f"127.0.0.1:{port}.evil",
    ):
        for path in ("/", "/version", "/other"):
            status, text = ask(server, path, host=host)
            assert status == 421 and "Run demo" not in text, host
    assert ask(server, host="")[0] == 421
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n".encode())
        assert b" 421 " in raw.recv(200)


def test_there_is_one_page_and_no_way_to_write_or_to_read_files(server: Server) -> None:
    assert ask(server, "/config.toml")[0] == ask(server, "/../config.toml")[0] == ask(server, "//etc/passwd")[0] == 404
    assert ask(server, method="POST")[0] == 501


def test_the_page_follows_the_log(server: Server, run: Path) -> None:
    _, first = ask(server)
    assert "has reached step 300 of 900" in first and "stopped at step" not in first
    version = re.search(r'data-version="(\w+)"', first)
    assert version is not None and ask(server, "/version")[1] == version[1] and ask(server)[1] == first
    log(run, 310)
    assert ask(server, "/version")[1] != version[1]
    _, second = ask(server)
    assert "has reached step 310 of 900" in second
    (again,) = re.findall(r'data-version="(\w+)"', second)
    assert again == ask(server, "/version")[1]


def test_half_a_line_waits_and_a_damaged_file_is_named_until_it_is_mended(server: Server, run: Path) -> None:
    whole = (run / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text(whole + '{"kind": "train", "st', encoding="utf-8")
    assert "reached step 300" in ask(server)[1]
    (run / "metrics.jsonl").write_text("<b>broken\n" + whole, encoding="utf-8")
    status, text = ask(server)
    assert status == 503 and "metrics.jsonl line 1" in text and "&lt;b&gt;" in text and "<b>" not in text
    (run / "metrics.jsonl").write_text(whole, encoding="utf-8")
    assert ask(server)[0] == 200


def test_the_page_loads_nothing_but_its_own_version(server: Server) -> None:
    _, page = ask(server)
    assert "connect-src 'self'" in page and not re.search(
        r"(src|href)\s*=\s*[\"'](?!data:|#)", page.split("<script>")[0]
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
def test_it_starts_without_torch_and_ctrl_c_ends_it_with_0(run: Path) -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    command = [sys.executable, "-c", WITHOUT_TORCH, "watch", str(run), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as made:
        assert made.stdout is not None and made.stderr is not None
        try:
            address = made.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
            made.send_signal(signal.SIGINT)
            assert made.wait(timeout=60) == 0 and made.stderr.read() == ""
        finally:
            made.kill()


def test_a_taken_port_and_a_folder_without_a_run_are_refused(
    server: Server, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(["watch", str(run), "--port", str(server.server_port)]) == 2
    assert f"port {server.server_port} of 127.0.0.1" in capsys.readouterr().err
    assert run_verb(["watch", str(tmp_path)]) == 2
    assert "expected a run folder" in capsys.readouterr().err
    assert run_verb(["watch", str(run), "--port", "70000"]) == 2
    assert "0 to 65535" in capsys.readouterr().err


@pytest.mark.slow
@needs_chromium
def test_the_browser_reloads_by_itself(
    server: Server, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served, made = [], server.page.page

    def page() -> bytes:
        served.append(made())
        if len(served) == 1:
            log(run, 310)  # after the page was made, before the browser has it
        return served[-1]

    monkeypatch.setattr(server.page, "page", page)
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=9000", "--dump-dom", f"http://127.0.0.1:{server.server_port}/",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, encoding="utf-8")
    assert "has reached step 310 of 900" in done.stdout, done.stderr[-2000:]
    assert len(served) == 2 and b"step 300 of 900" in served[0] and "js-plotly-plot" in done.stdout
    assert "watch has stopped" not in done.stdout.split("<script")[0]
