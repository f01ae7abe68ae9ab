"""A fake W&B server for tests with the real W&B SDK.

The server implements the requests that start, resume, fill and end a run. On a resume, the server
returns the data that it received before, and the real SDK decides where to continue.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HANG_S = 60.0
ENTITY = {"id": "e", "name": "team"}


class WandbServer(ThreadingHTTPServer):
    """A server that stores the rows of one run.

    `status` is the HTTP status of the responses to uploaded rows. If `hangs` is True, the server
    responds only after the client has timed out.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rows: dict[int, dict[str, Any]] = {}
        """The history rows by offset."""
        self.console: list[str] = []
        self.config: dict[str, Any] = {}
        self.tags: list[str] = []
        self.files: set[str] = set()
        self.exit_code: int | None = None
        self.status = 200
        self.hangs = False

    @property
    def url(self) -> str:
        """The URL of the server."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing, because tests disconnect clients on purpose."""

    def stream(self, body: dict[str, Any]) -> None:
        """Stores rows, console lines and the exit code."""
        files = body.get("files") or {}
        for name, chunk in files.items():
            if name == "wandb-history.jsonl":
                self.rows |= {
                    chunk["offset"] + i: json.loads(line) for i, line in enumerate(chunk["content"])
                }
            elif name == "output.log":
                self.console += [line.split(" ", 1)[1] for line in chunk["content"]]
        if body.get("complete"):
            self.exit_code = body["exitcode"]

    def query(self, query: str, values: dict[str, Any]) -> dict[str, Any] | None:
        """Returns the answer to a GraphQL query, or `None` if the query is unknown."""
        name = query.replace("{", "(").split("(")[0].split()[-1]
        match name:
            case "Viewer":
                return {
                    "viewer": {
                        **ENTITY,
                        "entity": "team",
                        "username": "me",
                        "flags": "{}",
                        "teams": {"edges": []},
                    }
                }
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "OrganizationCoreWeaveOrganizationID":
                return {"entity": {"organization": None}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "RunStoppedStatus":
                return {"project": {"run": {"stopped": False}}}
            case "RunResumeStatus":
                return {
                    "model": {
                        "id": "p",
                        "name": values["project"],
                        "entity": ENTITY,
                        "bucket": self._held(values["name"]),
                    }
                }
            case "UpsertBucket":
                return {"upsertBucket": {"bucket": self._upsert(values), "inserted": not self.rows}}
            case "CreateRunFiles":
                self.files |= set(values["files"])
                files = [
                    {"name": file, "uploadUrl": f"{self.url}/upload"} for file in values["files"]
                ]
                return {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}
        return None

    def _held(self, name: str) -> dict[str, Any] | None:
        if not self.rows:
            return None
        tail = json.dumps([json.dumps(self.rows[max(self.rows)])])
        counts = {
            "historyLineCount": len(self.rows),
            "logLineCount": len(self.console),
            "eventsLineCount": 0,
        }
        texts = {
            "summaryMetrics": "{}",
            "config": json.dumps(self.config),
            "notes": "",
            "wandbConfig": '{"t": 1}',
        }
        tails = {"historyTail": tail, "eventsTail": "[]"}
        return {
            "id": "x",
            "name": name,
            "displayName": name,
            "tags": self.tags,
            **counts,
            **texts,
            **tails,
        }

    def _upsert(self, values: dict[str, Any]) -> dict[str, Any]:
        self.config |= json.loads(values.get("config") or "{}")
        self.tags = values.get("tags") or self.tags
        project = {"id": "p", "name": values.get("project") or "p", "entity": ENTITY}
        name = values.get("displayName") or "happy-1"
        return {
            "id": "x",
            "name": values["name"],
            "displayName": name,
            "config": "{}",
            "project": project,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing."""

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        body = self._body()
        if self.server.hangs:
            time.sleep(HANG_S)
        if self.path.endswith("/file_stream"):
            if self.server.status == 200:
                self.server.stream(json.loads(body))
            self._answer({}, self.server.status)
        elif self.path == "/graphql":
            self._graphql(json.loads(body))
        else:
            self._answer({})

    def _graphql(self, request: dict[str, Any]) -> None:
        data = self.server.query(request["query"], request.get("variables") or {})
        self._answer({"errors": [{"message": "no such query"}]} if data is None else {"data": data})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _answer(self, data: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Runs a server on a free port of the loopback interface."""
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server
        server.shutdown()
