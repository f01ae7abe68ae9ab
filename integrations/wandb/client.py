"""The Weights & Biases client, which runs in the shipper."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import wandb
from PIL import UnidentifiedImageError

from nntrain.config.door import open_text
from nntrain.config.redact import redact
from nntrain.core.names import STEP, check_file_name
from nntrain.integrations.tracker import (
    OUTCOME_TAG,
    Lost,
    MetricRow,
    ModelFile,
    Refused,
    RunEnd,
    RunInfo,
    Started,
    Table,
    TrackerClient,
)
from nntrain.integrations.wandb import WandbTracker
from nntrain.integrations.wandb.names import artifact_name, nested, summary
from nntrain.integrations.wandb.session import (
    SESSIONS,
    Session,
    finish,
    library,
    open_session,
    wait_for_upload,
)
from nntrain.integrations.wandb.settings import refusals
from nntrain.result import StopReason, exit_code

TAGS_KEY = "nntrain"
"""The key of the run's config that contains the tags, because W&B's own tags have no values."""

CONSOLE = "console.log"
"""The name of the file that is shown in the run's Logs tab."""

CONSOLE_LINES = 1000
"""Maximum number of console lines to send in one call."""


class WandbClient(TrackerClient):
    """Records runs in W&B: online, offline or disabled.

    Args:
        settings: the settings of the tracker.
    """

    def __init__(self, settings: WandbTracker) -> None:
        self.settings = settings.resolved()
        self._uid = ""
        self._time_ms = 0
        self._is_confined = False
        if self.settings.mode != "disabled":
            library()

    @property
    def _session(self) -> Session:
        return SESSIONS[self._uid]

    # --- the run

    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Starts or resumes a run; the run's `uid` is its id in W&B.

        W&B cannot resume an offline run, so the run's folder is created again and the journal is
        delivered again from the start.

        Raises:
            Refused: if W&B will never accept the settings.
            PermissionError: if no API key is configured; the message says how to set one.
            TimeoutError: if the run has ended and is still being uploaded.
        """
        if run_id and run.uid and run_id != run.uid:  # the id is in a file of somebody else
            raise Refused(
                f"the W&B run {run_id} is another run: use python -m nntrain.sync --again"
            )
        self._check_folder()
        self._uid, self._time_ms = run_id or run.uid, run.time_ms
        session = open_session(self.settings, run, self._uid)
        config: Any = session.run.config
        config.update(nested(run.params), allow_val_change=True)
        self.set_tags(run.tags)
        for name, text in run.texts.items():
            _store_text(session.run, name, text)
        return Started(self._uid, self._where(session.run), session.rows)

    def confine(self) -> None:
        """Lets the client write only below the folder in the settings."""
        self._is_confined = True

    def _check_folder(self) -> None:
        folder = os.path.realpath(self.settings.dir or "")
        if self._is_confined and not all(
            Path(os.path.realpath(Path(folder, name))).is_relative_to(folder)
            for name in ("wandb", ".wandb")
        ):
            raise Refused(f"{folder}/wandb leads out of {folder} by a symbolic link")

    def lost(self, run: RunInfo, run_id: str, last: Mapping[str, float]) -> Lost | None:
        """Returns a reason if the id is another run's, or an offline run has no folder."""
        if run.uid and run_id != run.uid:
            return Lost(f"run {run_id} is another run")
        folder = Path(self.settings.dir or "")
        if self.settings.mode != "offline" or any(
            folder.glob(f"*wandb/offline-run-*-{escape(run_id)}*")
        ):
            return None
        return Lost(f"its folder {folder}/wandb/offline-run-*-{run_id} does not exist")

    def _where(self, run: wandb.Run) -> str:
        if self.settings.mode == "disabled":
            return "W&B run:         not recorded because mode=disabled"
        first = f"W&B run:         {run.name or run.id}, project {run.project}"
        if self.settings.mode == "offline":
            folder = shlex.quote(str(Path(run.dir).parent))
            return f"{first}, offline\nupload it:       wandb sync {folder}"
        return f"{first}\nlook at it:      {redact(run.url)}"

    def finish(self, end: RunEnd) -> None:
        """Ends the run with the exit code for `end.reason`; returns when the upload is finished.

        Raises:
            TimeoutError: if the upload is not finished after 10 s; it continues in the background.
        """
        session = self._session
        if session.upload is None:
            self.set_tags({OUTCOME_TAG: str(end.reason)})
            session.upload = finish(session, exit_code(end.reason, end.signum))
        wait_for_upload(self._uid, session.upload)

    # --- records

    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, each as a row of W&B's history."""
        for row in rows:
            self._define(row.values)
            self._time_ms = row.time_ms
            self._log(row.step, row.values)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Records histograms by name in one row of W&B's history."""
        self._time_ms = row.time_ms
        with self._one_row():
            bins = np.asarray(edges)
            histograms = {
                name: wandb.Histogram(np_histogram=(np.asarray(n), bins))
                for name, n in counts.items()
            }
            self._log(row.step, histograms)

    def figure(self, path: Path, name: str, step: int) -> None:
        """Stores an image in a row of W&B's history; the key is `name` without its extension."""
        with self._one_row(FileNotFoundError, UnidentifiedImageError):
            check_file_name(name, "Figure")
            self._log(step, {str(PurePosixPath(name).with_suffix("")): wandb.Image(str(path))})

    def table(self, table: Table, step: int) -> None:
        """Stores a table in a row of W&B's history."""
        with self._one_row():
            check_file_name(table.name, "Table")
            rows = [list(row) for row in table.rows]
            shown = wandb.Table(list(table.columns), rows, allow_mixed_types=True)
            self._log(step, {table.name: shown})

    def _define(self, values: Mapping[str, float]) -> None:
        """Defines the summary of each new key, because W&B's patterns match only prefixes."""
        session = self._session
        for key in values.keys() - session.defined:
            session.defined.add(key)
            if best := summary(key):
                session.run.define_metric(key.replace(".", r"\."), step_metric=STEP, summary=best)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        """Sends a row of history; W&B's step is the position of the row in the journal.

        Positions are unique and increase, so W&B neither drops rows whose training step repeats nor
        stores a row twice.
        """
        session = self._session
        row = {**values, STEP: step, "_timestamp": self._time_ms / 1000}
        session.run.log(row, step=session.rows, commit=True)
        session.rows += 1

    @contextmanager
    def _one_row(self, *final: type[Exception]) -> Iterator[None]:
        """Counts a row even if W&B refuses it, because the journal contains the row."""
        try:
            with refusals(*final):
                yield
        except Refused:
            self._session.rows += 1
            raise

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Stores tags in the config under `nntrain`; the outcome is also set as a W&B tag."""
        run = self._session.run
        config: Any = run.config
        config.update({TAGS_KEY: {**config.get(TAGS_KEY, {}), **tags}}, allow_val_change=True)
        if tags.get(OUTCOME_TAG) in set(StopReason):
            others = [tag for tag in run.tags or () if tag not in set(StopReason)]
            run.tags = (*others, tags[OUTCOME_TAG])

    # --- files

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Stores a file as an artifact of type `file`; sends `console.log` to the Logs tab."""
        if name == CONSOLE:
            self._console(path)
        else:
            self._store(path, name, "file", aliases, {})

    def model(self, model: ModelFile) -> None:
        """Stores a model's weights as an artifact of type `model`.

        The artifact's metadata contains the configuration that builds the model.
        """
        trusted = list(model.trusted_targets)
        made_by = (
            {} if model.node is None else {"node": dict(model.node), "trusted_targets": trusted}
        )
        self._store(model.path, model.name, "model", model.aliases, made_by)

    def _store(
        self, path: Path, name: str, kind: str, aliases: Sequence[str], metadata: Mapping[str, Any]
    ) -> None:
        with refusals(FileNotFoundError):
            artifact = wandb.Artifact(artifact_name(self._uid, name), kind, metadata=dict(metadata))
            # files next to a journal never change, so W&B does not need to copy them to its cache
            artifact.add_file(str(path), name, policy="immutable", skip_cache=True)
            logged = self._session.run.log_artifact(artifact, aliases=list(aliases))
            self._session.artifacts.append(logged)

    def _console(self, path: Path) -> None:
        """Sends the console lines that were written since the last call."""
        session = self._session
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        for start in range(session.console, len(lines), CONSOLE_LINES):
            session.run.write_logs("".join(lines[start : start + CONSOLE_LINES]))
        session.console = len(lines)


def _store_text(run: wandb.Run, name: str, text: str) -> None:
    """Stores text as a file of the run.

    The file is stored in a subfolder, because the top folder contains W&B's own `config.yaml`.
    """
    if run.disabled:
        return
    with refusals():
        check_file_name(name, "Text")
    path = Path(run.dir) / TAGS_KEY / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_text(path) as file:  # the text is from the journal, so it contains no secret
        file.write_as_is(text)
    run.save(path, base_path=run.dir, policy="now", glob=False)
