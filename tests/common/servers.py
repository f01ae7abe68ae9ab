"""Real servers on loopback for tests: MLflow, PostgreSQL, Optuna's proxy, and a faulty server."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

TIMEOUT_S = 90

USER, PASSWORD = "admin", "correct horse battery"
"""The login of a server with authentication."""

POSTGRES_BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def free_port() -> int:
    """Returns an unused port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(is_so: Callable[[], bool], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Waits until `is_so` returns True; fails with the message `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, f"{what}: not reached within {timeout_s} s"
        time.sleep(0.1)


class MlflowServer:
    """A real `mlflow server`; it can be killed and restarted with its store on the same port.

    Args:
        folder: folder of the database, the artifacts and the log.
        store: URI of the database; by default SQLite in the folder.
        has_logins: whether the server requires `USER` and `PASSWORD`.
    """

    def __init__(self, folder: Path, store: str | None = None, *, has_logins: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.store = store or f"sqlite:///{folder.absolute() / 'server.db'}"
        self._has_logins = has_logins
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        with open(self.folder / "server.log", "a") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.folder,
                env=self._env(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self.answers, f"{self.uri}/health")

    def answers(self) -> bool:
        """Returns whether the server answers; fails with its log if it has exited."""
        assert self._process is None or self._process.poll() is None, (
            self.folder / "server.log"
        ).read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        """Kills all processes of the server with SIGKILL."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _command(self) -> list[str]:
        options = {
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
            "--backend-store-uri": self.store,
            "--artifacts-destination": str(self.folder.absolute() / "artifacts"),
        }
        if self._has_logins:
            options["--app-name"] = "basic-auth"
        return [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *(word for option in options.items() for word in option),
        ]

    def _env(self) -> dict[str, str]:
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        return {**os.environ, **quiet, **(self._logins() if self._has_logins else {})}

    def _logins(self) -> Mapping[str, str]:
        settings = self.folder / "logins.ini"
        lines = [
            "[mlflow]",
            "default_permission = NO_PERMISSIONS",
            f"database_uri = sqlite:///{self.folder.absolute() / 'logins.db'}",
            f"admin_username = {USER}",
            f"admin_password = {PASSWORD}",
            "authorization_function = mlflow.server.auth:authenticate_request_basic_auth",
        ]
        settings.write_text("\n".join(lines))
        return {
            "MLFLOW_AUTH_CONFIG_PATH": str(settings),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for tests",
        }


class Postgresql:
    """A real PostgreSQL server with an empty database.

    It can be killed and restarted with its data on the same port.
    """

    def __init__(self) -> None:
        self._bin = POSTGRES_BIN
        assert self._bin is not None
        # PostgreSQL refuses to run as root, so run it as the user `postgres`.
        owner = (
            {"user": "postgres", "group": "postgres", "extra_groups": []}
            if os.geteuid() == 0
            else {}
        )
        self.folder = Path(tempfile.mkdtemp(prefix="nntrain-postgresql-"))
        if owner:
            shutil.chown(self.folder, "postgres", "postgres")
        self.port = free_port()
        self.uri = f"postgresql+psycopg2://nntrain@127.0.0.1:{self.port}/postgres"
        self._options: dict[str, Any] = {"cwd": self.folder, **owner}
        self._process: subprocess.Popen[bytes] | None = None
        initdb = [
            self._bin / "initdb",
            "-D",
            self.folder / "data",
            "-A",
            "trust",
            "-U",
            "nntrain",
            "--no-sync",
        ]
        subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, **self._options)

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        assert self._bin is not None
        listens = [
            f"-cport={self.port}",
            "-clisten_addresses=127.0.0.1",
            f"-cunix_socket_directories={self.folder}",
        ]
        command = [self._bin / "postgres", "-D", self.folder / "data", *listens, "-cfsync=off"]
        with open(self.folder / "log", "a") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._options)
        is_ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(lambda: subprocess.run(is_ready, check=False).returncode == 0, "PostgreSQL")

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Kills the main process; the other processes exit with it."""
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill(signal.SIGQUIT)  # PostgreSQL's signal for an immediate shutdown
        shutil.rmtree(self.folder)


@contextmanager
def postgresql() -> Iterator[str]:
    """Yields the URI of an empty PostgreSQL database that exists during the context."""
    with Postgresql() as server:
        yield server.uri


class OptunaProxy:
    """Optuna's gRPC proxy of a journal file; it can be killed and restarted on the same port.

    Args:
        folder: folder of the journal and the log.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder.absolute(), free_port()
        self.uri = f"grpc://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        program = (
            "from optuna.storages import JournalStorage, run_grpc_proxy_server\n"
            "from optuna.storages.journal import JournalFileBackend\n"
            f"storage = JournalStorage(JournalFileBackend({str(self.folder / 'proxy.jsonl')!r}))\n"
            f"run_grpc_proxy_server(storage, host='127.0.0.1', port={self.port})\n"
        )
        with open(self.folder / "proxy.log", "a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdout=log, stderr=log
            )
        wait_until(self._answers, self.uri)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Kills the proxy with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


class Fault(Enum):
    """How a `FaultyServer` handles a request."""

    NONE = "forwards the request"
    ERROR = "answers 500"
    TOO_MANY = "answers 429 with Retry-After"
    HANG = "never answers"
    LOST_REPLY = "forwards the request and closes the connection without an answer"


class FaultyServer:
    """A proxy of a real server that applies a fault to some requests and forwards the others.

    Args:
        target: URI of the real server; `None` if the fault needs no server.
        fault: fault to apply.
        every: apply the fault to every n-th request.
    """

    def __init__(
        self, target: str | None = None, fault: Fault = Fault.NONE, every: int = 1
    ) -> None:
        self.target, self.fault, self.every = target, fault, every
        self.n_requests = 0
        self.n_faults = 0
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_port}"

    def next_fault(self) -> Fault:
        """Counts a request and returns the fault to apply to it."""
        with self._lock:
            self.n_requests += 1
            fault = self.fault if self.n_requests % self.every == 0 else Fault.NONE
            self.n_faults += fault is not Fault.NONE
            return fault

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closed.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(faulty: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            match faulty.next_fault():
                case Fault.NONE:
                    self._answer(*self._pass_on(body))
                case Fault.ERROR:
                    self._answer(500, {}, b"internal error")
                case Fault.TOO_MANY:
                    self._answer(429, {"Retry-After": "30"}, b"too many requests")
                case Fault.HANG:
                    faulty.closed.wait()
                    self.close_connection = True
                case Fault.LOST_REPLY:
                    self._pass_on(body)
                    self.close_connection = True

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

        def _pass_on(self, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
            place = urlsplit(faulty.target or "").netloc
            connection = http.client.HTTPConnection(place, timeout=30)
            try:
                connection.request(
                    self.command, self.path, body, {**dict(self.headers), "Host": place}
                )
                reply = connection.getresponse()
                return (
                    reply.status,
                    {"Content-Type": reply.headers.get("Content-Type", "")},
                    reply.read(),
                )
            except OSError:
                return 502, {}, b"the target server does not answer"
            finally:
                connection.close()

        def _answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Logs nothing."""

    return Handler
