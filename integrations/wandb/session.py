"""The open W&B runs of this process, and W&B's service process.

W&B identifies an open run by its id for the lifetime of the process, no matter which client opened
the run. Open runs are therefore stored in this module and not in a client.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import wandb
from wandb.proto.wandb_server_pb2 import ServerRequest  # type: ignore[attr-defined]  # generated
from wandb.sdk.lib import wbauth
from wandb.sdk.mailbox import MailboxClosedError

from nntrain.config.redact import redact
from nntrain.core.names import STEP
from nntrain.integrations.capture.provenance import git_hangs
from nntrain.integrations.tracker import RunInfo
from nntrain.integrations.wandb import WandbTracker
from nntrain.integrations.wandb.settings import remove_offline, run_settings

_LOG = logging.getLogger("nntrain.wandb")

FINISH_TIMEOUT_S = 10.0
"""Seconds that one call of `WandbClient.finish` waits for the upload."""

CLOSE_TIMEOUT_S = 5.0
"""Seconds to wait for W&B to close a run that it failed to start."""


@dataclass
class Session:
    """A run that is open in this process."""

    run: wandb.Run
    rows: int
    """Number of history rows that W&B has stored or received."""
    n_held: int
    """Number of rows that W&B had stored when the run was opened."""
    n_warning: int
    """Number of W&B's warnings before the run was opened."""
    defined: set[str] = field(default_factory=set)
    """The keys whose summary is defined."""
    console: int = 0
    """Number of console lines that W&B has received."""
    artifacts: list[wandb.Artifact] = field(default_factory=list)
    upload: Future[None] | None = None
    """The future of the run's upload, after the run has ended."""


class _Messages:
    """Logs W&B's messages instead of printing them, and counts the warnings."""

    def __init__(self) -> None:
        self.n_warning = 0
        self.last_warning = ""

    def info(self, msg: str) -> None:
        _LOG.debug(msg)

    def warning(self, msg: str) -> None:
        self.n_warning, self.last_warning = self.n_warning + 1, msg
        _LOG.warning(msg)

    error = warning


_RESOLVED = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_TAGS", "WANDB_BASE_URL")
"""The variables that `WandbTracker.resolved` has read already."""

_MESSAGES = _Messages()
_ARGV = threading.Lock()

SESSIONS: dict[str, Session] = {}
"""The open runs by id."""


def library() -> Any:
    """Sets up W&B's library: silent, and with a separate service process."""
    # do not use the training process's service, which ends with that process
    os.environ.pop("WANDB_SERVICE", None)
    os.environ["WANDB_SILENT"] = "true"
    for name, value in list(os.environ.items()):
        if name.startswith("WANDB_") and not value:
            del os.environ[name]  # an empty variable is not set, but W&B would read it
    _avoid_git_that_hangs()
    settings = wandb.Settings(silent=True)
    with _hidden(_RESOLVED):
        setup = wandb.setup(settings)
    wandb.termsetup(settings, _MESSAGES)
    return setup


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Hides variables of the environment, in which W&B would find mistakes that do not matter."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@cache
def _avoid_git_that_hangs() -> None:
    """Keeps W&B from calling git if it does not answer, because W&B waits without a limit."""
    if "WANDB_DISABLE_GIT" not in os.environ and git_hangs(Path.cwd()):
        os.environ["WANDB_DISABLE_GIT"] = "true"
        _LOG.warning("git does not answer, so W&B does not record the commit.")


# --- opening a run


def open_session(tracker: WandbTracker, run: RunInfo, uid: str) -> Session:
    """Returns the open session of a run; opens a session if necessary.

    Args:
        tracker: the resolved settings.
        run: the run.
        uid: the id of the run in W&B.

    Raises:
        Refused: if W&B will never accept the settings.
        PermissionError: if no API key is configured.
        TimeoutError: if the run has ended and is still being uploaded.
    """
    session = SESSIONS[uid] = _alive(uid) or _opened(tracker, run, uid)
    return session


def _alive(uid: str) -> Session | None:
    """Returns the session of a run if the run is open and W&B's service process is alive."""
    session = SESSIONS.get(uid)
    if session is None:
        return None
    if session.upload is not None:
        wait_for_upload(uid, session.upload)
        return None
    with suppress(ConnectionError, MailboxClosedError), _forgets_dead_service():
        _ = session.run.disabled or session.run.step
    return SESSIONS.get(uid)


def _opened(tracker: WandbTracker, run: RunInfo, uid: str) -> Session:
    setup = None if tracker.mode == "disabled" else library()
    settings = run_settings(tracker, run, uid)
    if setup and tracker.mode == "online":
        _check_login(tracker.base_url or setup.settings.base_url)
    if tracker.mode == "offline":
        remove_offline(Path(settings.wandb_dir), uid)
    opened = _init(settings, run.process.args)
    opened.define_metric(STEP)
    opened.define_metric("*", step_metric=STEP)
    return Session(opened, opened.starting_step, opened.starting_step, _MESSAGES.n_warning)


def _check_login(base_url: str) -> None:
    """Checks for credentials without prompting on the terminal."""
    if wbauth.authenticate_session(host=base_url, source="nntrain", prompt=False) is None:
        raise PermissionError(
            f"W&B has no API key for {redact(base_url)}: run 'wandb login' or set WANDB_API_KEY."
        )


def _init(settings: wandb.Settings, args: Sequence[str]) -> wandb.Run:
    if settings.mode == "disabled":
        return wandb.init(settings=settings)
    setup = library()
    try:
        with _forgets_dead_service(), _arguments(args):
            return wandb.init(settings=settings)
    except wandb.Error:
        _close(setup.ensure_service(), settings.run_id)
        raise


def _close(service: Any, uid: str | None) -> None:
    """Closes a run that W&B failed to start; otherwise the next attempt would find it open."""
    _, interface = service.inform_attach(attach_id=uid)
    interface.deliver_exit(1).wait_or(timeout=CLOSE_TIMEOUT_S)
    service.inform_finish(run_id=uid)


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    """Sets `sys.argv` to the training process's arguments, because W&B has no setting for them."""
    with _ARGV:
        mine, sys.argv = sys.argv, [sys.argv[0], *args]
        try:
            yield
        finally:
            sys.argv = mine


@contextmanager
def _forgets_dead_service() -> Iterator[None]:
    """If W&B's service process has died, forgets its runs so that W&B starts a new service."""
    try:
        yield
    except (ConnectionError, MailboxClosedError):
        SESSIONS.clear()
        with suppress(ConnectionError):
            wandb.teardown()
        raise


# --- ending a run


def finish(session: Session, code: int) -> Future[None]:
    """Ends a run in a background thread; the future is done when the upload is finished."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            _end(session, code)
        except BaseException as err:  # noqa: BLE001 - raised again where the future is read
            future.set_exception(err)
        else:
            future.set_result(None)

    threading.Thread(target=work, name=f"wandb finish {session.run.id}", daemon=True).start()
    return future


def _end(session: Session, code: int) -> None:
    run = session.run
    try:
        if not (run.offline or run.disabled):
            for artifact in session.artifacts:  # run.finish ignores failed artifacts
                artifact.wait()
    finally:
        run.finish(exit_code=code)
    if not run.disabled:
        _wait_until_closed(run)
    _check_upload(session)


def _wait_until_closed(run: wandb.Run) -> None:
    """Waits until W&B has written the end of the run's file; `run.finish` does not wait for it."""
    service = library().ensure_service()
    # any request works, because the service answers requests in order
    answer = service.api_init_request(run.settings.to_proto())
    cleanup = ServerRequest()
    cleanup.api_cleanup_request.api_id = answer.api_id
    service.finalize(run, cleanup)()


def _check_upload(session: Session) -> None:
    """Checks that W&B has not aborted the upload; W&B itself only logs a warning.

    After this error, the next start asks the server for the number of stored rows.

    Raises:
        ConnectionError: if the run may be incomplete in W&B.
    """
    is_new = not session.run.offline and session.rows > session.n_held
    if is_new and _MESSAGES.n_warning > session.n_warning:
        raise ConnectionError(
            f"run {session.run.id} may be incomplete in W&B: {_MESSAGES.last_warning}"
        )


def wait_for_upload(uid: str, upload: Future[None]) -> None:
    """Waits for the end of an upload, and forgets the session.

    Raises:
        TimeoutError: if the upload is not finished after 10 s; the upload continues.
    """
    if not wait([upload], FINISH_TIMEOUT_S).done:
        raise TimeoutError(f"W&B has not finished uploading run {uid}: the upload continues.")
    SESSIONS.pop(uid, None)
    upload.result()
