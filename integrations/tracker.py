"""The tracker interface: settings for the training process, and a client for the shipper.

The training process only writes a journal. The shipper, a separate process, reads the journal and
hands each record to each tracker's client. Trackers do not depend on the Learner, and this module
imports neither torch nor the library of any tracker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from nntrain.result import StopReason

OUTCOME_TAG = "nntrain.outcome"
"""The tag that says why a run ended: the value of a `StopReason`."""

STUDY_TAG = "nntrain.study"
"""The tag with the name of the study; set on the study's own run and on the runs of its trials."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """The metrics of one step, in training batches; `time_ms` is in milliseconds since 1970."""

    time_ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """Description of the training process, in the terms that W&B uses."""

    pid: int = 0
    host: str = ""
    cwd: str = ""
    program: str = ""
    args: Sequence[str] = ()
    executable: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Information about a run that is known when the run starts.

    Attributes:
        uid: the unique id of the run, 16 hexadecimal digits. A resumed run keeps its id.
        name: the name to display; `None` lets the tracker choose one.
        params: the flattened configuration.
        tags: tags by name.
        texts: contents of text files to store with the run, by file name.
        process: the training process.
        time_ms: the start of the run, in milliseconds since 1970.
        folder: the folder of the journal.
        parent: the `uid` of the parent run; trackers display this run below its parent.
        group: the name of the run's group; for a study and its trials, the name of the study.
    """

    uid: str = ""
    name: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    process: ProcessInfo = field(default_factory=ProcessInfo)
    time_ms: int = 0
    folder: Path = Path()
    parent: str = ""
    group: str = ""

    @property
    def is_study(self) -> bool:
        """Whether this run represents a study and is the parent of the runs of its trials."""
        return STUDY_TAG in self.tags and not self.parent


@dataclass(frozen=True, slots=True)
class Started:
    """A run that a client has started or resumed.

    Attributes:
        run_id: the id of the run in the tracker.
        where: a message of one to three lines that tells the user where to find the run.
        rows: the number of records that the tracker already stores, or `None` if the tracker
            ignores repeated records. Rows of metrics, histogram records, figures and tables are one
            record each; kinds that the client does not support are not included. With a number,
            delivery restarts at the beginning of the journal and skips that many records. With
            `None`, delivery continues where it stopped.
    """

    run_id: str
    where: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: the reason, a message for the user, the signal if any, and the time."""

    reason: StopReason
    message: str = ""
    signum: int | None = None
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A named table: column names, and rows of numbers and strings."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file with the weights of a model: its `state_dict` under the key `model`.

    Attributes:
        path: the file.
        name: the name of the model in the tracker.
        aliases: aliases of this version in the tracker, for example `best`.
        node: the configuration that builds the model; `None` if the model was built in code.
        trusted_targets: packages that `node` may use in addition to nntrain's allow-list.
    """

    path: Path
    name: str
    aliases: Sequence[str] = ()
    node: Mapping[str, Any] | None = None
    trusted_targets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a tracker no longer has a run.

    Attributes:
        why: the reason, for example "its database /a/mlflow.db does not exist".
        is_trashed: whether the user has moved the run to the trash.
    """

    why: str
    is_trashed: bool = False


class Refused(Exception):
    """Raised for a record that the tracker will never accept; delivery skips the record.

    After any other exception, delivery tries again.
    """


class Unsupported(Exception):
    """Raised for a kind of record that the tracker cannot store; the record stays in the journal.

    This is not an error: delivery counts the records of each kind and logs each kind once.
    """


class TrackerClient(ABC):
    """Sends runs to a tracker, one run at a time. It runs in the shipper process.

    A client must use the steps and times from the journal. Methods may be slow, but must not block
    forever. They raise `Refused` for a record that the tracker will never accept. All other
    exceptions should propagate, so that delivery tries again.

    Subclasses must implement `start`, `metrics` and `finish`. By default, `system` calls `metrics`,
    and the other methods raise `Unsupported`.
    """

    @abstractmethod
    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Starts a run, or resumes the run with id `run_id` and reopens it if it has ended.

        A second call with the same `run.uid` must resume the run that the first call created.
        """

    @abstractmethod
    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, in as few requests as the tracker allows."""

    @abstractmethod
    def finish(self, end: RunEnd) -> None:
        """Ends the run with the status for `end.reason`; returns when all data is delivered."""

    def lost(self, run: RunInfo, run_id: str, last: Mapping[str, float]) -> Lost | None:
        """Returns why the tracker no longer has a run; `None` if it has the run or cannot tell.

        `python -m nntrain.sync` calls this method before `start`. It must not change anything, and
        must need few requests.

        Args:
            run: the run.
            run_id: the id of the run in the tracker, from an earlier `start`.
            last: the last value of each metric that the tracker has received; may be empty.
        """
        return None

    def confine(self) -> None:
        """Lets the client write files only inside the place that the settings name.

        `python -m nntrain.sync` calls this method before `start` if a journal names the place and
        the user does not, because the place may have been prepared by somebody else.
        """
        return

    def send_anew(self) -> None:
        """Lets the next `start` without `run_id` create a new run, even if one is in the trash."""
        return

    def system(self, rows: Sequence[MetricRow]) -> None:
        """Records samples of CPU, memory and GPU usage, which are not part of the journal.

        A client that sets `Started.rows` must override this method and exclude these rows from the
        number.
        """
        self.metrics(rows)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Records histograms by name at the time and step of `row`.

        Args:
            row: time and step; its values are empty.
            edges: the bin edges, one more than the number of bins.
            counts: the counts per bin, by name of the histogram.
        """
        raise Unsupported

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags by name."""
        raise Unsupported

    def figure(self, path: Path, name: str, step: int) -> None:
        """Stores an image file under a name, for example `plots/loss.png`."""
        raise Unsupported

    def table(self, table: Table, step: int) -> None:
        """Stores a table."""
        raise Unsupported

    def artifact(self, path: Path, name: str, aliases: Sequence[str] = ()) -> None:
        """Stores a file under a name, for example `reports/confusion.csv`."""
        raise Unsupported

    def model(self, model: ModelFile) -> None:
        """Stores the weights of a model, and registers the model if the settings request it."""
        raise Unsupported


class Tracker(ABC):
    """Base class for tracker settings. Subclasses are frozen dataclasses of plain values.

    The training process sends the settings to the shipper, which creates the object again and calls
    `connect`. The module that defines the settings must not import the tracker's library.
    """

    @property
    def system_metrics(self) -> bool:
        """Whether the shipper records CPU, memory and GPU usage for this tracker.

        A dataclass field with a default value may override this property.
        """
        return False

    def resolved(self) -> Self:
        """Returns the settings with values from the environment and the current folder filled in.

        The training process calls this method, because the shipper has a different environment and
        current folder.
        """
        return self

    def destination(self) -> Mapping[str, object]:
        """Returns the resolved settings that say where a run goes; local paths as `Path`.

        A journal may come from somebody else. Therefore `python -m nntrain.sync` compares these
        settings with those of the user's environment before it sends anything. By default, all
        settings count.
        """
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)  # type: ignore[arg-type]  # trackers are dataclasses
            if item.init
        }

    @abstractmethod
    def connect(self) -> TrackerClient:
        """Imports the tracker's library and returns a new client. Called in the shipper.

        This method must not contact the tracker; `TrackerClient.start` does that.
        """
