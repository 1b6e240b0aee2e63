"""A real ComfyUI server with this pack in its custom_nodes, and what a test asks of it.

The host's own folder is not written to: models, custom_nodes, input, output and user are those of
a folder given with --base-directory. The pack there is a copy of what the registry's archive holds,
so that a file missing from the archive is missing here.
"""

import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..hosts import Host
from . import archive

START, RUN = 600, 900  # seconds, for a machine that does other things too
FOLDERS = ("custom_nodes", "models", "input", "output", "user", "temp")
PACK = "jodi"  # the pack's folder in custom_nodes, and so the name of its templates

# A machine may name a proxy that does not know this one.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RefusedError(Exception):
    """The server would not run a graph: its answer."""


class FailedError(Exception):
    """A graph stopped with an error: the node's class and the message."""


@dataclass(frozen=True)
class Run:
    """A finished graph.

    outputs: what each output node reported, by node id. left_out: errors of nodes that the host
    would not run while it ran the others, by node id.
    """

    outputs: dict[str, dict]
    seconds: float
    left_out: dict[str, dict]

    def files(self, node: str, kind: str = "images") -> list[dict]:
        return self.outputs[node][kind]


class Server:
    """Started by `start`; `stop` must follow, whatever happens."""

    def __init__(self, host: Host, folder: Path):
        self.host, self.folder = host, folder
        self.log = folder / "server.log"
        self._process = None

    def start(self) -> "Server":
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        archive.unpack(self.folder / "custom_nodes" / PACK)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [self.host.python, "main.py", "--cpu", "--port", str(port)]
        command += ["--preview-method", "auto"]  # as the page's users have it; the default is none
        command += ["--base-directory", str(self.folder), "--database-url", "sqlite:///:memory:"]
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.host.path, stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        self._wait_until_up()
        return self

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def alive(self) -> bool:
        return self._process.poll() is None and "system" in self.get("/system_stats")

    def log_text(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return re.sub(r"\x1b\[[0-9;]*m", "", text)

    def get(self, path: str):
        return json.loads(self._ask(path))

    def fetch(self, path: str) -> bytes:
        return self._ask(path)

    def upload(self, path: Path) -> str:
        """Put a file into the server's input folder; its name there."""
        target = self.folder / "input" / path.name
        target.write_bytes(path.read_bytes())
        return path.name

    def view(self, file: dict) -> bytes:
        """A file that a node reported, as the page gets it."""
        return self._ask("/view?" + urllib.parse.urlencode(file))

    def forget(self) -> None:
        """Drop what is cached from earlier runs, so that the next one computes everything."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)  # the prompt worker does it, between two looks at its queue

    def interrupt(self) -> None:
        """What the page's Cancel does."""
        self._ask("/interrupt", b"{}")

    def run(self, graph: dict, workflow: dict | None = None, client: str | None = None) -> Run:
        """Post an API graph and wait for its end.

        workflow: the page's form, for saved pictures. client: the Listener that is told about it.
        Raises: RefusedError when validation fails; FailedError when a node does.
        """
        began = time.monotonic()
        body = {"prompt": graph, "client_id": client or uuid.uuid4().hex}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        answer = self.post("/prompt", body)
        name, left_out = answer["prompt_id"], answer.get("node_errors") or {}
        while time.monotonic() - began < RUN:
            entry = self.get(f"/history/{name}").get(name)
            if entry and entry["status"]["status_str"] != "success":
                raise FailedError(_error(entry))
            if entry:
                return Run(entry["outputs"], time.monotonic() - began, left_out)
            if self._process.poll() is not None:
                raise RuntimeError(f"the server ended:\n{self.log_text()[-4000:]}")
            time.sleep(0.2)
        raise TimeoutError(f"no result after {RUN} s:\n{self.log_text()[-4000:]}")

    def post(self, path: str, body: dict):
        answer = self._ask(path, json.dumps(body).encode())
        return json.loads(answer) if answer else None

    def _ask(self, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, data)
        if data is not None:
            request.add_header("Content-Type", "application/json")
        try:
            with _opener.open(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RefusedError(error.read().decode("utf-8", "replace")) from None

    def _wait_until_up(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < START:
            if self._process.poll() is not None:
                raise RuntimeError(f"{self.host} did not start:\n{self.log_text()[-4000:]}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError(f"{self.host} is not up after {START} s:\n{self.log_text()[-4000:]}")


def _error(entry: dict) -> str:
    for kind, message in entry["status"]["messages"]:
        if kind == "execution_error":
            return f"{message['node_type']}: {message['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"{message['node_type']}: interrupted"
    return json.dumps(entry["status"])
