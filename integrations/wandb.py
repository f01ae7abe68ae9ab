"""Weights & Biases, through its run object: online, offline or disabled."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from nntrain.config.redact import redact
from nntrain.core.names import STEP, check_file_name
from nntrain.integrations.tracker import (
    OUTCOME_TAG,
    MetricRow,
    ModelFile,
    ProcessInfo,
    Refused,
    RunEnd,
    RunInfo,
    Started,
    Table,
)
from nntrain.result import StopReason, exit_code

if TYPE_CHECKING:
    import wandb

_LOG = logging.getLogger("nntrain.wandb")

DEFAULT_PROJECT = "nntrain"
MODES = ("online", "offline", "disabled")

TAGS_KEY = "nntrain"
"""The key of the run's config that holds the tags by name; W&B's own tags have no values."""

STUDY = "study"
"""The job type of a study's own run, by which it is told from those of its trials."""

CONSOLE = "console.log"
"""The artifact that becomes the run's Logs tab."""

CONSOLE_LINES = 1000
"""Lines of it that are handed over at once."""

INIT_TIMEOUT_S = 10.0
"""Seconds that `WandbTracker.start` waits for the server."""

FINISH_TIMEOUT_S = 10.0
"""Seconds that `WandbTracker.finish` waits for the upload; called again, it goes on waiting."""

UPLOAD_TIMEOUT_S = 300.0
"""Seconds after which W&B gives up what is left of the upload, and the run is begun once more; artifacts have no such limit.
As long may W&B's side process outlive this one, in the worst case."""

CLOSE_TIMEOUT_S = 5.0
"""Seconds to wait for W&B to close a run that it failed to begin."""

FLUSH_S = 1.0
"""Seconds after which W&B's own file is flushed; its default is 15."""

MAX_ARTIFACT_NAME = 128
"""Characters of an artifact's name that W&B takes."""

_FEWER = frozenset({"loss", "error", "mae", "mse", "msle", "rmse", "rmspe", "perplexity"})
_MORE = frozenset(
    {
        "acc",
        "accuracy",
        "auc",
        "auroc",
        "bleu",
        "dice",
        "f1",
        "fbeta",
        "iou",
        "jaccard",
        "kappa",
        "precision",
        "psnr",
    }
    | {"r2", "recall", "score", "ssim"}
)


@dataclass
class _Session:
    """A run that is open in this process, whichever tracker began it."""

    run: wandb.Run
    rows: int
    """Rows of history that W&B holds or was handed."""
    n_held: int
    """Those that it held when the run was opened."""
    n_warning: int
    """W&B's warnings until then."""
    defined: set[str] = field(default_factory=set)
    console: int = 0
    """Lines of the console's log that were handed over."""
    artifacts: list[wandb.Artifact] = field(default_factory=list)
    upload: Future[None] | None = None


class _Messages:
    """Takes what W&B would print: into the log, warnings counted."""

    def __init__(self) -> None:
        self.n_warning = 0
        self.last_warning = ""

    def info(self, msg: str) -> None:
        _LOG.debug(msg)

    def warning(self, msg: str) -> None:
        self.n_warning, self.last_warning = self.n_warning + 1, msg
        _LOG.warning(msg)

    error = warning


_MESSAGES = _Messages()
_SESSIONS: dict[str, _Session] = {}
_ARGV = threading.Lock()


@dataclass
class WandbTracker:
    """Keeps a run in Weights & Biases.

    Credentials are W&B's own: `WANDB_API_KEY`, or what `wandb login` has saved. A run in mode `offline` lies in
    `DIR/wandb/offline-run-TIME-UID`, and `wandb sync` uploads it.

    Args:
        project: `None` takes `WANDB_PROJECT`, else `nntrain`.
        entity: user or team; `None` takes `WANDB_ENTITY`, else W&B's default for the account.
        group: runs of one group are shown together; `None` takes the study of a sweep's trial.
        job_type: what kind of work it is, such as `train`; a study's own run is `study`.
        run_name: `None` takes the name of the run itself, else lets W&B find one.
        tags: tags of your own, each of 1 to 64 characters.
        notes: a text to stand beside the run.
        mode: `online`, `offline` or `disabled`; `None` takes `WANDB_MODE`, else `online`.
        dir: the folder in which `wandb/` is made; `None` takes `WANDB_DIR`, else the current one.
        base_url: the server; `None` takes `WANDB_BASE_URL`, else what W&B's own settings name.

    Raises:
        ImportError: if wandb is not installed; the message names the command.
        ValueError: if `mode` is none of these.
    """

    project: str | None = None
    entity: str | None = None
    group: str | None = None
    job_type: str | None = None
    run_name: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    mode: str | None = None
    dir: str | None = None
    base_url: str | None = None

    def __post_init__(self) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError("The W&B tracker needs wandb: pip install 'nntrain[wandb]'.")
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(
                f"mode={self.mode!r} is no mode of W&B: expected one of {', '.join(MODES)}."
            )
        self.tags = list(self.tags)
        self._uid = ""
        self._time_ms = 0

    @property
    def system_metrics(self) -> bool:
        """No: W&B records the use of processor, memory and GPU by itself."""
        return False

    def settled(self) -> WandbTracker:
        """The same settings with the folder made absolute, and the environment and the defaults looked up."""
        environ = os.environ.get
        tags = environ("WANDB_TAGS")
        return replace(
            self,
            project=self.project or environ("WANDB_PROJECT") or DEFAULT_PROJECT,
            entity=self.entity or environ("WANDB_ENTITY"),
            group=self.group or environ("WANDB_RUN_GROUP"),
            job_type=self.job_type or environ("WANDB_JOB_TYPE"),
            run_name=self.run_name or environ("WANDB_NAME"),
            tags=self.tags or (tags.split(",") if tags else []),
            notes=self.notes or environ("WANDB_NOTES"),
            mode=self.mode or environ("WANDB_MODE") or "online",
            dir=str(Path(self.dir or environ("WANDB_DIR") or "").absolute()),
            base_url=self.base_url or environ("WANDB_BASE_URL"),
        )

    def load(self) -> None:
        """Imports wandb and starts its side process."""
        if self.settled().mode != "disabled":
            _library()

    # --- the run

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Begins the run whose id is its `uid`, or goes on with it.

        W&B cannot go on with a run offline: the folder that it has is made anew, and the journal sent from its beginning.

        Raises:
            Refused: if W&B never takes these settings.
            PermissionError: if there is no API key; the message says how to get one.
            TimeoutError: if the run has ended and its upload is not finished.
        """
        settled = self.settled()
        self._uid, self._time_ms = run_id or run.uid, run.time_ms
        session = _SESSIONS[self._uid] = _alive(self._uid) or settled._open(run, self._uid)
        config: Any = session.run.config
        config.update(nested(run.params), allow_val_change=True)
        self.set_tags(run.tags)
        for name, text in run.texts.items():
            _keep_text(session.run, name, text)
        return Started(self._uid, settled._where(session.run), session.rows)

    def _open(self, run: RunInfo, uid: str) -> _Session:
        library = None if self.mode == "disabled" else _library()
        settings = self._settings(run, uid)
        if library and self.mode == "online":
            _check_login(self.base_url or library.settings.base_url)
        if self.mode == "offline":
            _remove_offline(Path(settings.wandb_dir), uid)
        opened = _init(settings, run.process.args)
        opened.define_metric(STEP)
        opened.define_metric("*", step_metric=STEP)
        return _Session(opened, opened.starting_step, opened.starting_step, _MESSAGES.n_warning)

    def _settings(self, run: RunInfo, uid: str) -> wandb.Settings:
        """What `wandb.init` in the process that trains would have found out, and what the user has set.

        Raises:
            Refused: if W&B never takes a setting.
        """
        import wandb

        settings = {**_process_settings(run), **self._own_settings(run), "run_id": uid}
        with _refusing(wandb.errors.UsageError):
            return wandb.Settings(
                **{key: value for key, value in settings.items() if value is not None},
                silent=True,
                console="off",
                label_disable=True,
                reinit="create_new",
                init_timeout=INIT_TIMEOUT_S,
                finish_timeout=UPLOAD_TIMEOUT_S,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=FLUSH_S,
                stop_fn=_ignore_stop,
            )

    def _own_settings(self, run: RunInfo) -> dict[str, Any]:
        return {
            "project": self.project,
            "entity": self.entity,
            "run_group": self.group or run.group or None,
            "run_job_type": STUDY if run.is_study else self.job_type,
            "run_name": self.run_name or run.name,
            "run_tags": tuple(self.tags),
            "run_notes": self.notes,
            "mode": self.mode,
            "resume": "allow" if self.mode == "online" else None,
            "root_dir": self.dir,
            "base_url": self.base_url,
        }

    def _where(self, run: wandb.Run) -> str:
        if self.mode == "disabled":
            return "W&B run:         kept nowhere, as mode=disabled says"
        first = f"W&B run:         {run.name or run.id}, project {run.project}"
        if self.mode == "offline":
            return f"{first}, offline\nupload it:       wandb sync {Path(run.dir).parent}"
        return f"{first}\nlook at it:      {redact(run.url)}"

    @property
    def _session(self) -> _Session:
        return _SESSIONS[self._uid]

    def finish(self, end: RunEnd) -> None:
        """Ends the run with the exit code that stands for the reason; returns when all of it is uploaded.

        Raises:
            TimeoutError: if it is not uploaded after 10 s; W&B goes on with it.
        """
        session = self._session
        if session.upload is None:
            self.set_tags({OUTCOME_TAG: str(end.reason)})
            session.upload = _finish(session, exit_code(end.reason, end.signum))
        _wait_for_upload(self._uid, session.upload)

    # --- what is recorded

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, each as a row of W&B's history."""
        for row in rows:
            self._define(row.values)
            self._time_ms = row.time_ms
            self._log(row.step, row.values)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Records histograms by name, all in one row of W&B's history."""
        import wandb

        self._time_ms = row.time_ms
        with self._one_row():
            bins = np.asarray(edges)
            self._log(
                row.step,
                {
                    name: wandb.Histogram(np_histogram=(np.asarray(n), bins))
                    for name, n in counts.items()
                },
            )

    def figure(self, path: Path, name: str, step: int) -> None:
        """Keeps an image in a row of W&B's history, under its name without the extension."""
        import wandb
        from PIL import UnidentifiedImageError

        with self._one_row(FileNotFoundError, UnidentifiedImageError):
            check_file_name(name, "Figure")
            self._log(step, {str(PurePosixPath(name).with_suffix("")): wandb.Image(str(path))})

    def table(self, table: Table, step: int) -> None:
        """Keeps a table in a row of W&B's history."""
        import wandb

        with self._one_row():
            check_file_name(table.name, "Table")
            rows = [list(row) for row in table.rows]
            self._log(
                step, {table.name: wandb.Table(list(table.columns), rows, allow_mixed_types=True)}
            )

    def _define(self, values: Mapping[str, float]) -> None:
        """Tells W&B which value of a new key stands for the run; its own patterns know no more than a beginning."""
        session = self._session
        for key in values.keys() - session.defined:
            session.defined.add(key)
            if best := summary(key):
                session.run.define_metric(key.replace(".", r"\."), step_metric=STEP, summary=best)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        """Hands over a row of history; its number there is its place in the journal, so that none is dropped or doubled."""
        session = self._session
        session.run.log(
            {**values, STEP: step, "_timestamp": self._time_ms / 1000},
            step=session.rows,
            commit=True,
        )
        session.rows += 1

    @contextmanager
    def _one_row(self, *final: type[Exception]) -> Iterator[None]:
        """Counts the row even if W&B never takes it, since it has its place in the journal."""
        try:
            with _refusing(*final):
                yield
        except Refused:
            self._session.rows += 1
            raise

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags: in the config under `nntrain`, as W&B's have no values; the outcome is one of W&B's as well."""
        run = self._session.run
        config: Any = run.config
        config.update({TAGS_KEY: {**config.get(TAGS_KEY, {}), **tags}}, allow_val_change=True)
        if OUTCOME_TAG in tags:
            others = [tag for tag in run.tags or () if tag not in set(StopReason)]
            run.tags = (*others, tags[OUTCOME_TAG])

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Keeps a file as an artifact of type `file`; `console.log` becomes the run's Logs tab."""
        if name == CONSOLE:
            self._console(path)
        else:
            self._keep(path, name, "file", aliases, {})

    def model(self, model: ModelFile) -> None:
        """Keeps a model's weights as an artifact of type `model`, the configuration that makes it as its metadata."""
        node = (
            {}
            if model.node is None
            else {"node": dict(model.node), "trusted_targets": list(model.trusted_targets)}
        )
        self._keep(model.path, model.name, "model", model.aliases, node)

    def _keep(
        self, path: Path, name: str, kind: str, aliases: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        import wandb

        with _refusing(FileNotFoundError):
            artifact = wandb.Artifact(artifact_name(self._uid, name), kind, metadata=dict(metadata))
            # what lies beside a journal does not change: no need for the copy that W&B makes below the home folder
            artifact.add_file(str(path), name, policy="immutable", skip_cache=True)
            self._session.artifacts.append(
                self._session.run.log_artifact(artifact, aliases=list(aliases))
            )

    def _console(self, path: Path) -> None:
        """Hands over the lines that came since the last time."""
        session = self._session
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for start in range(session.console, len(lines), CONSOLE_LINES):
            session.run.write_logs("".join(lines[start : start + CONSOLE_LINES]))
        session.console = len(lines)


# --- names and values


def summary(key: str) -> str | None:
    """Which value of a metric stands for the run: `min` for losses and errors, `max` for scores, else the last."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+[0-9]*", key)}
    if words & _FEWER or "loss" in key.lower():
        return "min"
    return "max" if words & _MORE else None


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Flattened params as the tree that W&B expects; as they are if some key is both a value and the parent of others."""
    tree: dict[str, Any] = {}
    for key, value in params.items():
        *parents, last = str(key).split(".")
        node: Any = tree
        for part in parents:
            node = node.setdefault(part, {}) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last in node:
            return {str(key): value for key, value in params.items()}
        node[last] = value
    return tree


def artifact_name(uid: str, name: str) -> str:
    """The name of a run's artifact, which is the project's: characters that W&B refuses become `_`."""
    fitting = f"run-{uid}-{re.sub(r'[^a-zA-Z0-9_.-]', '_', name)}"
    if len(fitting) <= MAX_ARTIFACT_NAME:
        return fitting
    return f"{fitting[: MAX_ARTIFACT_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


@contextmanager
def _refusing(*final: type[Exception]) -> Iterator[None]:
    """Turns what W&B raises for a bad value, which it will never take, into `Refused`."""
    kinds: tuple[type[Exception], ...] = (ValueError, TypeError, *final)
    try:
        yield
    except kinds as err:
        raise Refused(" ".join(str(err).split())) from err


# --- the process that trains


def _process_settings(run: RunInfo) -> dict[str, Any]:
    process = run.process
    script, is_here = _script(process), process.host in ("", platform.node())
    return {
        "host": process.host or None,
        "program": process.program or "<python with no main file>",
        "program_abspath": str(script or ""),
        "program_relpath": str(script.relative_to(process.cwd))
        if script and script.is_relative_to(process.cwd)
        else "",
        "x_executable": process.executable or None,
        "git_root": process.cwd or None,
        "x_stats_pid": process.pid,
        "x_disable_stats": not (is_here and _trains_yet(process.pid, run.time_ms)),
        "x_disable_machine_info": not is_here,
        "x_save_requirements": is_here,
    }


def _script(process: ProcessInfo) -> Path | None:
    path = Path(process.cwd, process.program)
    return path if path.is_file() else None


def _trains_yet(pid: int, time_ms: int) -> bool:
    """Whether the process lives, and is not a later one that was given the same number."""
    import psutil

    try:
        return bool(psutil.Process(pid).create_time() * 1000 < time_ms + 1000)
    except (psutil.Error, ValueError):
        return False


# --- the library


def _library() -> Any:
    """W&B's library, loaded and silent, with a side process of its own."""
    os.environ.pop("WANDB_SERVICE", None)  # that of the process that trains ends with it
    os.environ["WANDB_SILENT"] = "true"
    import wandb

    settings = wandb.Settings(silent=True)
    library = wandb.setup(settings)
    wandb.termsetup(settings, _MESSAGES)
    return library


def _check_login(base_url: str) -> None:
    """Looks for credentials without asking on the terminal for them, as W&B would."""
    from wandb.sdk.lib import wbauth

    if wbauth.authenticate_session(host=base_url, source="nntrain", prompt=False) is None:
        raise PermissionError(
            f"W&B has no API key for {redact(base_url)}: run 'wandb login' or set WANDB_API_KEY."
        )


def _init(settings: wandb.Settings, args: Sequence[str]) -> wandb.Run:
    import wandb

    if settings.mode == "disabled":
        return wandb.init(settings=settings)
    library = _library()
    try:
        with _unless_service_died(), _arguments(args):
            return wandb.init(settings=settings)
    except wandb.Error:
        _close(library.ensure_service(), settings.run_id)
        raise


def _close(service: Any, uid: str | None) -> None:
    """Closes a run that W&B failed to begin, which it would say is in use at the next try."""
    _, interface = service.inform_attach(attach_id=uid)
    interface.deliver_exit(1).wait_or(timeout=CLOSE_TIMEOUT_S)
    service.inform_finish(run_id=uid)


@contextmanager
def _arguments(args: Sequence[str]) -> Iterator[None]:
    """Stands in for the arguments of the process that trains: W&B has no setting for them."""
    with _ARGV:
        mine, sys.argv = sys.argv, [sys.argv[0], *args]
        try:
            yield
        finally:
            sys.argv = mine


def _ignore_stop() -> None:
    """Does not interrupt this process when the Stop button of W&B's page is pressed."""
    _LOG.warning("the Stop button of W&B's page stops no training: stop the process.")


def _alive(uid: str) -> _Session | None:
    """The session of that run, if there is one and W&B's side process has not died."""
    from wandb.sdk.mailbox import MailboxClosedError

    session = _SESSIONS.get(uid)
    if session is None:
        return None
    if session.upload is not None:
        _wait_for_upload(uid, session.upload)
        return None
    with suppress(ConnectionError, MailboxClosedError), _unless_service_died():
        _ = session.run.disabled or session.run.step
    return _SESSIONS.get(uid)


@contextmanager
def _unless_service_died() -> Iterator[None]:
    """Lets W&B start another side process at the next call if this one has died, and with it all its runs."""
    import wandb
    from wandb.sdk.mailbox import MailboxClosedError

    try:
        yield
    except (ConnectionError, MailboxClosedError):
        _SESSIONS.clear()
        with suppress(ConnectionError):
            wandb.teardown()
        raise


def _finish(session: _Session, code: int) -> Future[None]:
    """Ends a run in a thread, since that takes as long as the upload does."""
    future: Future[None] = Future()

    def work() -> None:
        try:
            _end(session, code)
        except BaseException as err:  # noqa: BLE001 - it is raised where the future is read
            future.set_exception(err)
        else:
            future.set_result(None)

    threading.Thread(target=work, name=f"wandb finish {session.run.id}", daemon=True).start()
    return future


def _end(session: _Session, code: int) -> None:
    run = session.run
    try:
        if not (run.offline or run.disabled):
            for artifact in (
                session.artifacts
            ):  # W&B ends a run without a word about those that it could not upload
                artifact.wait()
    finally:
        run.finish(exit_code=code)
    if not run.disabled:
        _wait_until_closed(run)
    if (
        not run.offline
        and session.rows > session.n_held
        and _MESSAGES.n_warning > session.n_warning
    ):
        # after some answers of a server W&B gives the upload up and ends the run as if nothing were: the next start asks how
        # much the server holds
        raise ConnectionError(f"W&B may not hold all of run {run.id}: {_MESSAGES.last_warning}")


def _wait_until_closed(run: wandb.Run) -> None:
    """Waits until W&B has written the last of its file, which it does after it has said that the run is finished."""
    from wandb.proto.wandb_server_pb2 import ServerRequest  # type: ignore[attr-defined]  # made when it is imported

    service = _library().ensure_service()
    answer = service.api_init_request(
        run.settings.to_proto()
    )  # any question would do: they are answered in their order
    cleanup = ServerRequest()
    cleanup.api_cleanup_request.api_id = answer.api_id
    service.finalize(run, cleanup)()


def _wait_for_upload(uid: str, upload: Future[None]) -> None:
    if not wait([upload], FINISH_TIMEOUT_S).done:
        raise TimeoutError(f"W&B has not uploaded run {uid} yet, and goes on.")
    _SESSIONS.pop(uid, None)
    upload.result()


# --- files


def _remove_offline(folder: Path, uid: str) -> None:
    """Removes what W&B has of this run and no other: what comes next is the whole of it."""
    name = re.compile(rf"offline-run-\d{{8}}_\d{{6}}-{re.escape(uid)}(-\d+)?")
    for old in folder.glob("offline-run-*"):
        match = name.fullmatch(old.name)
        if match and (match[1] is None or (old / f"run-{uid}.wandb").is_file()):
            shutil.rmtree(old)


def _keep_text(run: wandb.Run, name: str, text: str) -> None:
    """Keeps a text among the run's files, in a folder, as W&B has a `config.yaml` of its own."""
    if run.disabled:
        return
    with _refusing():
        check_file_name(name, "Text")
    path = Path(run.dir) / TAGS_KEY / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    run.save(path, base_path=run.dir, policy="now", glob=False)
