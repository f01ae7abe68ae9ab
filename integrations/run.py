"""Tracking for any training loop: `with nntrain.track(trackers) as run: run.log_metrics(...)`."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from nntrain.config.flatten import flatten
from nntrain.config.redact import Redactor
from nntrain.core.events import CancelException, reason_of
from nntrain.core.log_checks import whole_step
from nntrain.core.run_log import CheckedLog
from nntrain.integrations.capture.provenance import GitTags, provenance_tags, running_program
from nntrain.integrations.journal.records import (
    JOURNAL,
    RunRecord,
    journal_path,
    read_journal,
)
from nntrain.integrations.shipping.client import Offline, Shipper
from nntrain.integrations.shipping.run_writer import RunWriter
from nntrain.integrations.tracker import ModelFile, RunInfo, Tracker
from nntrain.result import FitResult, StopReason

if TYPE_CHECKING:
    from torch import Tensor

GROUP_TAG = "nntrain.group"
"""The tag that contains the name of a run's group."""


def track(
    trackers: Tracker | Mapping[str, Tracker] | Sequence[Tracker] = (),
    *,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    tags: Mapping[str, object] | None = None,
    group: str = "",
    resume: str | Path | None = None,
    resume_step: int | None = None,
    redact: Sequence[str] = (),
    trusted: Sequence[str] = (),
    shipper: Shipper | None = None,
) -> Run:
    """Tracks a training loop. Use it as `with nntrain.track(...) as run:`.

    The run ends when the block exits; delivery to the trackers continues in the background. When
    the process exits, it waits up to 30 s for delivery; call `run.finish()` to wait earlier. In
    distributed training, call `track` on rank 0 only.

    Args:
        trackers: a tracker, a list of trackers, or a mapping from names to trackers. Trackers in a
            list are named after their classes: the first `MLflowTracker` is `mlflow`, the second
            `mlflow_2`. Without trackers, the run is only written to the journal.
        name: the name to display; `None` lets the tracker choose one.
        params: hyperparameters; nested mappings are flattened to dotted keys.
        folder: the folder of the journal; `None` creates `outputs/DATE/TIME`, or uses the folder of
            the resumed run.
        tags: tags to add to the default tags (command, git commit, package versions).
        group: the name of a group of runs; sets the group in W&B and the tag `nntrain.group`.
        resume: the folder of an earlier run to continue; the trackers show a single run.
        resume_step: the step of the checkpoint from which training resumes; points of the earlier
            run after this step are dropped. `None` keeps all points.
        redact: regular expressions for secrets, in addition to the secrets found in `params` and
            the environment.
        trusted: packages, in addition to nntrain, whose tracker classes the shipper may
            instantiate.
        shipper: the shipper that delivers the journal; `None` uses the one shared by all runs of
            this process.

    Raises:
        FileNotFoundError: if `resume` is not the folder of a run.
        TypeError: if `trackers` contains an object that is not a `Tracker`, `name` or `group` is
            not a string, or `params` or `tags` is not a mapping.
        ValueError: if a name, `redact` or `resume_step` is invalid.
    """
    _check_types(name, params, group)
    named, params = _named(trackers), dict(params or {})
    redactor = Redactor(redact, params, os.environ)
    all_tags = _all_tags(tags or {}, group, redactor)
    info = RunInfo(name=name, params=flatten(params), tags=all_tags, group=group)
    if (earlier := _earlier(resume, resume_step)) is not None:
        info, folder = _continued(earlier.run, info), folder or earlier.run.folder
    shipper = shipper or (None if named else Offline())
    writer = RunWriter(
        named,
        folder,
        info,
        shipper=shipper,
        trusted=trusted,
        redactor=redactor,
        late_tags=partial(_git_tags, GitTags(Path.cwd()), tags or {}),
    )
    return Run(writer, earlier)


class Run(CheckedLog):
    """A tracked run, created by `nntrain.track`. It starts and ends with its `with` block.

    The outcome of the run depends on how the block ends:

    - no exception: the reason that was last passed to `outcome`, or `COMPLETED`;
    - `KeyboardInterrupt`: `INTERRUPTED`;
    - `MemoryError` or `torch.OutOfMemoryError`: `OUT_OF_MEMORY`;
    - `optuna.TrialPruned`: `PRUNED`;
    - a `CancelException`: its `reason`;
    - `SystemExit` with code 0: same as no exception;
    - `SystemExit` with 128 plus a signal number: `INTERRUPTED`;
    - `SystemExit` with another code: the reason that was last passed to `outcome`, or the reason
      for the exception that was being handled;
    - any other exception: `ERROR`, with its message and traceback.

    Exceptions propagate out of the block. If the process is killed, the shipper ends the run as
    `INTERRUPTED`.
    """

    LABEL = "run"
    ENDED = "log inside the with block"

    def __init__(self, writer: RunWriter, earlier: Earlier | None) -> None:
        super().__init__(writer)
        self._writer, self._earlier = writer, earlier
        self._last_step = 0 if earlier is None else earlier.last_step
        self._stated: FitResult | None = None

    @property
    def uid(self) -> str:
        """The id of the run; a resumed run keeps its id.

        Raises:
            RuntimeError: if the block has not been entered.
        """
        return self._begun_uid()

    @property
    def folder(self) -> Path:
        """The folder of the journal; pass it to `nntrain.track(resume=...)` to continue the run."""
        return self._writer.journal.parent

    # --- records

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Sets tags. A new value replaces the earlier value of the same tag.

        Raises:
            TypeError: if `tags` is not a mapping.
            ValueError: if a tag name is not a non-empty string.
        """
        texts = _texts(tags)
        if self._open_sink() is not None:
            self._writer.tags(texts)

    def log_model(
        self,
        path: str | Path,
        name: str | None = None,
        aliases: Sequence[str] = (),
        *,
        node: Mapping[str, Any] | None = None,
        trusted_targets: Sequence[str] = (),
    ) -> None:
        """Records a copy of a model's weight file.

        To register the model, a tracker needs `node` and a file written by `torch.save` that
        contains the `state_dict` under the key `model`.

        Args:
            path: the file.
            name: the name of the model in the tracker; `None` uses the file name.
            aliases: aliases of this version in the tracker, for example `["best"]`.
            node: the configuration of the module: `_target_` and its arguments.
            trusted_targets: packages that `node` may use in addition to nntrain's allow-list.

        Raises:
            ValueError: if a tracker would reject the name or an alias.
        """
        file, name = self._checked_file(path, name, aliases)
        if self._sink_for(file, name) is not None:
            model = ModelFile(file, name, tuple(aliases), node, tuple(trusted_targets))
            with self._refusing_unwritable(name):
                self._writer.placed_model(self._writer.files.copy(file), model)

    def outcome(self, reason: StopReason | str, message: str = "") -> None:
        """Sets the outcome of the run, for example `StopReason.EARLY_STOPPED`; the last call wins.

        Raises:
            RuntimeError: if the block has not been entered.
            ValueError: if `reason` is not a valid `StopReason`.
        """
        if reason not in set(StopReason):
            known = ", ".join(StopReason)
            raise ValueError(f"outcome={reason!r} is not a StopReason: choose one of {known}.")
        if self._open_sink() is not None:
            self._stated = FitResult(StopReason(reason), message)

    def finish(self, timeout_s: float | None = None) -> list[str]:
        """Waits for delivery of all runs of this process; call it after the block.

        Prints what was not delivered. Returns one message per tracker that says where to find the
        run.

        Args:
            timeout_s: maximum time to wait, in seconds; `None` uses the shipper's limit, 30 s by
                default.

        Raises:
            RuntimeError: if the block has not ended.
        """
        if self._writer.is_open:
            raise RuntimeError(
                "finish() was called before the run ended: call it after the with block."
            )
        return self._writer.finish(timeout_s)

    # --- start and end

    def __enter__(self) -> Self:
        if self._writer.uid is not None:
            raise RuntimeError(
                "This run was already started: continue it with nntrain.track(resume=FOLDER)."
            )
        if (earlier := self._earlier) is not None:
            self._writer.resume(earlier.run.uid, earlier.run.folder / JOURNAL, earlier.cut)
        self._writer.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.end(self._result(err))

    def _result(self, err: BaseException | None) -> FitResult:
        if err is None or (isinstance(err, SystemExit) and not err.code):
            return self._stated or FitResult(StopReason.COMPLETED)
        if isinstance(err, SystemExit):
            return _interrupted(err) or self._stated or result_of(_cause(err))
        return result_of(err)

    # --- methods that `RunLog` calls

    def _current_step(self) -> int:
        return self._last_step

    def _records(self) -> bool:
        return bool(self._begun_uid())

    def _record_metrics(self, values: Mapping[str, float | Tensor], step: int) -> None:
        self._last_step = step
        super()._record_metrics(values, step)
        self._writer.shipper.check()

    def _begun_uid(self) -> str:
        if self._writer.uid is None:
            raise RuntimeError(
                "The run has not started: use it inside `with nntrain.track(...) as run:`."
            )
        return self._writer.uid


# --- outcomes


def result_of(err: BaseException) -> FitResult:
    """Returns the result of a run that ended with an exception; failures include the traceback."""
    if isinstance(err, CancelException):
        return FitResult(err.reason, err.message, signum=err.signum)
    reason = reason_of(err)
    message = f"{type(err).__name__}: {err}" if str(err) else type(err).__name__
    if reason is StopReason.INTERRUPTED:
        return FitResult(reason, message, signum=signal.SIGINT)
    has_failed = reason in (StopReason.ERROR, StopReason.OUT_OF_MEMORY)
    trace = "".join(traceback.format_exception(err)) if has_failed else ""
    return FitResult(reason, message, traceback=trace)


def _interrupted(err: SystemExit) -> FitResult | None:
    """Returns the result for the exit code of a signal (128 plus its number), or `None`."""
    if not isinstance(err.code, int) or err.code - 128 not in set(signal.Signals):
        return None
    signum = signal.Signals(err.code - 128)
    message = f"exit code {err.code}, {signum.name}"
    return FitResult(StopReason.INTERRUPTED, message, signum=signum)


def _cause(err: BaseException) -> BaseException:
    """Returns the exception that led to `err`, or `err` itself."""
    context = None if err.__suppress_context__ else err.__context__
    return err.__cause__ or context or err


# --- arguments


def _named(trackers: Tracker | Mapping[str, Tracker] | Sequence[Tracker]) -> dict[str, Tracker]:
    if isinstance(trackers, Mapping):
        named = dict(trackers)
    else:
        each: Sequence[Any] = trackers if isinstance(trackers, list | tuple) else [trackers]
        named = dict(zip(_names(each), each, strict=True))
    for tracker in named.values():
        if not isinstance(tracker, Tracker):
            raise TypeError(
                f"{tracker!r} is not a tracker: pass a tracker, for example "
                "nntrain.integrations.MLflowTracker()."
            )
    return named


def _names(trackers: Sequence[object]) -> list[str]:
    """Names trackers after their classes: `mlflow` for an `MLflowTracker`, then `mlflow_2`."""
    kinds = [type(one).__name__.removesuffix("Tracker").lower() or "tracker" for one in trackers]
    numbers = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
    return [kind if n == 1 else f"{kind}_{n}" for kind, n in zip(kinds, numbers, strict=True)]


def _all_tags(tags: Mapping[str, object], group: str, redactor: Redactor) -> dict[str, str]:
    of_group = {GROUP_TAG: group} if group else {}
    return provenance_tags(redactor, running_program()) | of_group | _texts(tags)


def _git_tags(git: GitTags, given: Mapping[str, object]) -> dict[str, str]:
    """Returns the tags of this process's commit, except those that the program has set itself."""
    return {name: text for name, text in git().items() if name not in given}


def _check_types(name: object, params: object, group: object) -> None:
    for key, value in (("name", name), ("group", group)):
        if not isinstance(value, str | None):
            raise TypeError(f"{key}={value!r} must be a string.")
    if not isinstance(params, Mapping | None):
        raise TypeError(f"params={params!r} must be a mapping, for example {{'lr': 0.1}}.")


def _texts(tags: Mapping[str, object]) -> dict[str, str]:
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags={tags!r} must be a mapping, for example {{'data': 'digits'}}.")
    for name in tags:
        if not isinstance(name, str) or not name:
            raise ValueError(f"Tag name {name!r} must be a non-empty string.")
    return {name: str(value) for name, value in tags.items()}


# --- resuming


@dataclass(frozen=True)
class Earlier:
    """The run to continue, without the steps after `cut`; logging continues from `last_step`."""

    run: RunInfo
    cut: int
    last_step: int


def _earlier(resume: str | Path | None, step: int | None) -> Earlier | None:
    if step is not None and whole_step(step) is None:
        raise ValueError(f"resume_step={step!r} must be an integer from 0 to 2**63 - 1.")
    if resume is None and step is not None:
        raise ValueError("resume_step needs resume: pass resume=FOLDER, the run to continue.")
    if resume is None:
        return None
    record = _record(resume)
    last = _last_step(record)
    return Earlier(record.run, 2**63 - 1 if step is None else step, last if step is None else step)


def _record(resume: str | Path) -> RunRecord:
    journal = journal_path(Path(resume).absolute())
    if not journal.is_file():
        raise FileNotFoundError(
            f"resume={resume} must be the folder of a run and contain {JOURNAL}: "
            "omit resume to start a new run."
        )
    return read_journal(journal)


def _last_step(record: RunRecord) -> int:
    return max((int(series.step.max()) for series in record.metrics.values()), default=0)


def _continued(before: RunInfo, now: RunInfo) -> RunInfo:
    """Merges the information about a resumed run; new values replace earlier values."""
    return replace(
        now,
        name=now.name or before.name,
        params={**before.params, **now.params},
        tags={**before.tags, **now.tags},
        group=now.group or before.group,
    )
