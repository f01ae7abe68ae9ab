"""Tracks a study as a run, called the study run: the parent of all trial runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna import Study

from nntrain.app.build import make_metrics, resolve
from nntrain.app.objectives import check_objective
from nntrain.app.tracking import (
    check_delivery,
    interrupt_timeout_s,
    make_shipper,
    make_trackers,
)
from nntrain.config.door import open_text, write_table
from nntrain.config.instantiate import Node
from nntrain.config.messages import sentence
from nntrain.config.redact import Redactor, learn
from nntrain.core.names import RUN_UID
from nntrain.integrations.capture.provenance import GitTags, process_info, provenance_tags
from nntrain.integrations.journal.files import FOLDER, warning_if_unwritable
from nntrain.integrations.journal.records import (
    JOURNAL,
    JournalError,
    Record,
    end_record,
    read_journal,
    start_record,
)
from nntrain.integrations.journal.writer import JournalInUseError, JournalWriter, is_being_written
from nntrain.integrations.shipping.backlog import Backlog, backlog, sync_command
from nntrain.integrations.shipping.client import (
    Shipment,
    Shipper,
    tell_backlog,
)
from nntrain.integrations.shipping.destinations import sync_options
from nntrain.integrations.shipping.run_writer import START_WAIT_S, now_ms
from nntrain.integrations.shipping.spec import resolved, spec_of
from nntrain.integrations.shipping.state import whereabouts
from nntrain.integrations.tracker import OUTCOME_TAG, STUDY_TAG, RunEnd, RunInfo, Tracker
from nntrain.result import StopReason
from nntrain.sweeps.callbacks import SweepEnd
from nntrain.sweeps.errors import SweepError
from nntrain.sweeps.report.html import write_figure
from nntrain.sweeps.report.results import (
    BEST,
    REPORT,
    RESULTS,
    TRIALS,
    final_table,
    trials_table,
)
from nntrain.sweeps.spec.plan import SweepPlan

if TYPE_CHECKING:
    import plotly.graph_objects as go

MAX_NAMED = 3
"""Maximum number of undelivered runs to list; if there are more, only the count is printed."""

FIGURES = "figures"
"""The artifact folder of the report's figures."""

NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow displays as the description of a run (Markdown)."""

_OWN: Mapping[str, Any] = {"run_name": None, "system_metrics": False}
"""Tracker settings that differ for a study: its name is the run name, and it does not train."""


@dataclass(frozen=True)
class _Tracking:
    """The trackers of the study run, and the tracking configuration."""

    trackers: Mapping[str, Tracker]
    settings: Mapping[str, Any]
    trusted: Sequence[str]
    redactor: Redactor


class StudyRun:
    """Records a study as a run in the configured trackers.

    The journal of the run is in the study folder. Running the same command again continues the run.
    If several commands work on the same study and folder, the first command writes the journal.
    Each command records the results when it ends, unless another command is
    still writing the journal.
    """

    def __init__(self) -> None:
        self._tracking: _Tracking | None = None
        self._shipper: Shipper | None = None
        self._writer: JournalWriter | None = None

    # --- before

    def check(self, plan: SweepPlan, config: DictConfig) -> None:
        """Checks the configuration of a trial without loading data.

        Raises:
            ConfigError: for the first mistake that affects all trials.
        """
        if "tracker" not in config:
            return
        try:
            with _hydra_of(plan, config):
                # a custom search space function may set values that are still missing here
                if plan.custom_search_space is None:
                    _check(config, plan.trusted)
                self._tracking = _tracking(config, plan.trusted)
        except OmegaConfBaseException as err:
            raise SweepError(sentence(err)) from err

    def before_sweep(self, study: Study, plan: SweepPlan) -> None:
        """Starts or continues the run."""
        if self._tracking is not None and self._tracking.trackers:
            _check_journal(study, plan)
            self._shipper = make_shipper(
                self._tracking.settings, self._tracking.trackers, self._tracking.trusted
            )
            self._open(self._tracking, self._shipper, study, plan)

    def _open(self, tracking: _Tracking, shipper: Shipper, study: Study, plan: SweepPlan) -> None:
        self._is_continued = (plan.folder / JOURNAL).exists()
        try:
            self._writer = JournalWriter(plan.folder / JOURNAL)
        except JournalInUseError:
            return  # another command is writing the journal of this study
        sent = {name: resolved(tracker) for name, tracker in tracking.trackers.items()}
        nodes = {name: tracking.redactor.value(spec_of(tracker)) for name, tracker in sent.items()}
        self._writer.write(start_record(_run_info(tracking, study, plan), nodes))
        self._writer.wait(START_WAIT_S)
        self._shipment = Shipment(self._writer.path, sent, tracking.trusted)
        shipper.add(self._shipment)

    # --- after

    def after_sweep(
        self, study: Study, plan: SweepPlan, figures: Mapping[str, go.Figure], end: SweepEnd
    ) -> None:
        """Records the results, ends the run, waits for delivery and prints where the run is."""
        tracking, shipper = self._tracking, self._shipper
        if tracking is None or shipper is None:
            return
        if self._writer is None:
            self._open(tracking, shipper, study, plan)
        if (writer := self._writer) is not None:
            try:
                for record in _found(tracking.redactor, study, plan, figures):
                    writer.write(record)
            finally:
                writer.write(*_ended(tracking.redactor, end, self._is_continued))
                writer.close()
            shipper.ended(self._shipment)
        self._farewell(shipper, plan, end)

    def _farewell(self, shipper: Shipper, plan: SweepPlan, end: SweepEnd) -> None:
        assert self._tracking is not None
        is_interrupted = end.reason is StopReason.INTERRUPTED
        settings = self._tracking.settings
        shipper.finish(interrupt_timeout_s(settings) if is_interrupted else None)
        if not self._tracking.settings["offline"]:
            _warn(plan.folder, list(_undelivered(plan.folder, self._tracking.trackers)))
        for where in whereabouts(plan.folder / JOURNAL):
            print(where)
        if self._tracking.settings["offline"]:
            options = sync_options(*self._tracking.trackers.values())
            print(f"deliver it:      {sync_command(plan.folder, options)}")


def _undelivered(folder: Path, trackers: Mapping[str, Tracker]) -> Iterator[Backlog]:
    """Yields the undelivered records of each run in the study folder.

    Skips runs that are still being written and runs that were continued by another run.
    """
    for journal in sorted(folder.rglob(JOURNAL)):
        left = [
            replace(missing, options=sync_options(tracker))
            for name, tracker in trackers.items()
            if (missing := backlog(journal, name)) is not None
        ]
        if left and not is_being_written(journal) and not _is_continued(journal):
            yield from left


def _is_continued(journal: Path) -> bool:
    with suppress(JournalError):
        return read_journal(journal).continued_by is not None
    return False


def _warn(folder: Path, left: Sequence[Backlog]) -> None:
    if len(left) <= MAX_NAMED:
        tell_backlog(left)
        return
    for name in sorted({missing.name for missing in left}):
        of_this = [missing for missing in left if missing.name == name]
        error = next((missing.error for missing in of_this if missing.error), None)
        why = f" because delivery fails ({error})" if error else ""
        remedy = sync_command(folder, of_this[0].options)
        print(
            f"nntrain: {len(of_this)} runs are not fully delivered to {name}{why}. "
            f"Deliver them with: {remedy}",
            file=sys.stderr,
        )


# --- the configuration


@contextmanager
def _hydra_of(plan: SweepPlan, config: DictConfig) -> Iterator[None]:
    """Sets the Hydra values that the configuration of a trial may interpolate."""
    known = HydraConfig.instance()
    before = known.cfg
    with open_dict(config):
        config.hydra.runtime.output_dir = str(plan.folder / "0")
        config.hydra.job.id, config.hydra.job.num = "0", 0
    known.set_config(config)
    try:
        yield
    finally:
        known.cfg = before


def _task(config: DictConfig) -> DictConfig:
    task = config.copy()
    with open_dict(task):
        del task["hydra"]
    return task


def _tracking(config: DictConfig, trusted: Sequence[str]) -> _Tracking:
    plain = OmegaConf.to_container(_task(config), resolve=True)
    assert isinstance(plain, dict)
    settings: dict[str, Any] = plain["tracker"] or {}
    check_delivery(settings)
    nodes = {
        name: _of_study(node) if isinstance(node, Mapping) else node
        for name, node in settings.items()
    }
    values = {str(key): value for key, value in plain.items()}
    return _Tracking(
        make_trackers(nodes, trusted),
        settings,
        trusted,
        learn(Redactor(plain["redact"], values, os.environ)),
    )


def _of_study(node: Node) -> dict[str, Any]:
    return {key: _OWN.get(key, value) for key, value in node.items()}


def _check(config: DictConfig, trusted: Sequence[str]) -> None:
    plain = resolve(_task(config), trusted)
    # a custom loss may record additional metrics, so the names are known only for PyTorch losses
    if str(plain["loss"].get("_target_", "")).startswith("torch.nn."):
        metrics = make_metrics(plain["metrics"], trusted)
        names = {
            part: [one.name for one in metrics if one.active(part == "train")]
            for part in ("train", "valid")
        }
        check_objective(
            plain["objective"],
            [f"{part}/{name}" for part in names for name in ("loss", *names[part])],
        )


# --- the run


def _check_journal(study: Study, plan: SweepPlan) -> None:
    journal = plan.folder / JOURNAL
    try:
        is_other = journal.is_file() and read_journal(journal).run.uid != study.user_attrs[RUN_UID]
    except JournalError:
        return  # the process died while writing the first record
    if is_other:
        raise SweepError(
            f"{journal} belongs to another study: change hydra.sweeper.study_name, or use the "
            "hydra.sweeper.storage of that study."
        )


def _run_info(tracking: _Tracking, study: Study, plan: SweepPlan) -> RunInfo:
    redactor, name = tracking.redactor, plan.study_name
    return RunInfo(
        uid=study.user_attrs[RUN_UID],
        name=name,
        params=redactor.value(_params(plan)),
        tags={**GitTags(Path.cwd())(), **provenance_tags(redactor), STUDY_TAG: name},
        process=process_info(redactor),
        time_ms=now_ms(),
        group=name,
    )


def _params(plan: SweepPlan) -> dict[str, Any]:
    """Returns the settings of the study that do not change when the study is resumed."""
    space = {f"space.{name}": words for name, words in plan.space.describe().items()}
    kinds = {
        what: node["_target_"].rpartition(".")[2]
        for what, node in (("sampler", plan.sampler), ("pruner", plan.pruner))
    }
    return {
        **space,
        **kinds,
        "objective": ", ".join(plan.objectives),
        "direction": ", ".join(plan.directions),
    }


def _found(
    redactor: Redactor, study: Study, plan: SweepPlan, figures: Mapping[str, go.Figure]
) -> Iterator[Record]:
    """Yields the results of the study as journal records, without secrets."""
    trials = study.get_trials(deepcopy=False)
    head, rows = trials_table(plan, trials)
    rows = [list(redactor.value(dict(zip(head, row, strict=True))).values()) for row in rows]
    yield {"kind": "table", "name": "trials", "columns": head, "rows": rows, "step": 0}
    yield {
        "kind": "tags",
        "tags": {NOTE_TAG: redactor.text("```\n" + "\n".join(final_table(plan, trials)) + "\n```")},
    }
    files = plan.folder / FOLDER
    # the report and its figures show all parameters and cannot be redacted
    if not any(redactor.is_secret(name) for trial in trials for name in trial.params):
        yield from _file(plan, REPORT, plan.folder / REPORT)
        for name, figure in figures.items():
            path = files / FIGURES / f"{name}.html"
            with warning_if_unwritable(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_figure(path, figure)
            yield from _file(plan, f"{FIGURES}/{name}.html", path)
    with warning_if_unwritable(files):
        _write_texts(plan, files, [head, *rows])
    for name in (TRIALS, RESULTS, BEST):
        yield from _file(plan, name, files / name)


def _write_texts(plan: SweepPlan, files: Path, table: Sequence[Sequence[Any]]) -> None:
    files.mkdir(exist_ok=True)
    write_table(files / TRIALS, table)
    for name in (RESULTS, BEST):
        if (plan.folder / name).is_file():
            with open_text(files / name) as file:
                file.write((plan.folder / name).read_text(encoding="utf-8"))


def _file(plan: SweepPlan, name: str, path: Path) -> Iterator[Record]:
    if path.is_file():
        yield {
            "kind": "artifact",
            "path": str(path.relative_to(plan.folder)),
            "name": name,
            "aliases": [],
        }


def _ended(redactor: Redactor, end: SweepEnd, is_continued: bool) -> Iterator[Record]:
    message = redactor.text(end.message)
    tags = {OUTCOME_TAG: str(end.reason)}
    if message or is_continued:  # an empty message replaces the one of an earlier end
        tags["nntrain.message"] = message
    yield {"kind": "tags", "tags": tags}
    yield end_record(RunEnd(end.reason, message, end.signum, now_ms()))
