"""The interface of a tracker: settings for the training process, and a client for the shipper.

The training process only writes a journal. The shipper, a separate process, reads the journal and
hands each record to each tracker's client. Trackers do not know the Learner, and this module
imports neither torch nor the library of a tracker.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from nntrain.result import StopReason

OUTCOME_TAG = "nntrain.outcome"
"""The tag of every run that says why the run ended, as the value of a `StopReason`."""

STUDY_TAG = "nntrain.study"
"""The tag that names the study, of its own run and of its trials."""


@dataclass(frozen=True, slots=True)
class MetricRow:
    """The values of one step: `time_ms` in milliseconds since 1970, `step` in training batches."""

    time_ms: int
    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """The training process, as W&B would describe it if W&B were imported there."""

    pid: int = 0
    host: str = ""
    cwd: str = ""
    program: str = ""
    args: Sequence[str] = ()
    executable: str = ""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known about a run when it starts.

    Attributes:
        uid: the machine-readable name of the run, 16 hexadecimal digits. It survives a resume.
        name: the name to display; `None` lets the tracker choose one.
        params: the flattened configuration.
        tags: tags by name.
        texts: text files to keep with the run, by name.
        process: the training process.
        time_ms: the start of the run, in milliseconds since 1970.
        folder: the folder of the journal.
        parent: the `uid` of the parent run, under which trackers display this run.
        group: the name of the group: the study's, for its own run and for its trials.
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
        """Whether this is the run of a study, the parent of its trials' runs."""
        return STUDY_TAG in self.tags and not self.parent


@dataclass(frozen=True, slots=True)
class Started:
    """A run that a client has started or resumed.

    Attributes:
        run_id: the tracker's own id of the run.
        where: where to find the run, for people, in one to three lines.
        rows: the number of records that the tracker already holds: each row of metrics, histogram
            record, figure and table counts as one, without the kinds that the client cannot keep.
            For a tracker that would store a row twice if it received the row twice: delivery
            restarts at the beginning of the journal and skips this many. `None` means that
            repeating a row changes nothing; delivery continues where it stopped.
    """

    run_id: str
    where: str
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended: the reason, a message for people, the signal if any, and the time."""

    reason: StopReason
    message: str = ""
    signum: int | None = None
    time_ms: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """A named table: the names of its columns, and its rows of numbers and strings."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The weights of a model: a file with its `state_dict` under the key `model`.

    Attributes:
        path: the file.
        name: the name of the model in the tracker.
        aliases: names under which the tracker finds this version, for example `best`.
        node: the configuration that makes the model; `None` if it was made without one.
        trusted_targets: the packages that `node` may name in addition to nntrain's allow-list.
    """

    path: Path
    name: str
    aliases: Sequence[str] = ()
    node: Mapping[str, Any] | None = None
    trusted_targets: Sequence[str] = ()


class Refused(Exception):
    """The tracker will never accept this record, so delivery does not retry it.

    Delivery retries after every other exception.
    """


class Unsupported(Exception):
    """The tracker cannot keep this kind of record, which stays in the journal.

    This is neither a refusal nor an error: delivery counts the records by kind and logs each kind
    once.
    """


class TrackerClient(ABC):
    """Sends runs to a tracker, one run at a time; lives in the shipper.

    Steps and times come from the journal; a client never invents them. A method may take long, but
    must not block forever. It raises `Refused` for a record that the tracker will never accept, and
    lets every other exception of the library pass, so that delivery tries again.

    A client must implement `start`, `metrics` and `finish`. The other methods raise `Unsupported`
    unless a client overrides them.
    """

    @abstractmethod
    def start(self, run: RunInfo, run_id: str | None = None) -> Started:
        """Starts a run, or resumes the one with id `run_id`, and reopens it if it has ended.

        A second call with the same `run.uid` finds the run that the first call created.
        """

    @abstractmethod
    def metrics(self, rows: Sequence[MetricRow]) -> None:
        """Records rows of metrics, in as few requests as the tracker allows."""

    @abstractmethod
    def finish(self, end: RunEnd) -> None:
        """Ends the run with the status for its reason; returns when the tracker has everything."""

    def system(self, rows: Sequence[MetricRow]) -> None:
        """Records samples of the use of processor, memory and GPU, which the journal does not hold.

        A client that returns `Started.rows` must override this and not count these rows.
        """
        self.metrics(rows)

    def histograms(
        self, row: MetricRow, edges: Sequence[float], counts: Mapping[str, Sequence[float]]
    ) -> None:
        """Records histograms by name at the time and step of `row`.

        Args:
            row: time and step; its values are empty.
            edges: the edges of the bins, one more than there are counts.
            counts: the counts of each bin, by name.
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
        """Stores the weights of a model, and registers the model if the settings ask for it."""
        raise Unsupported


class Tracker(ABC):
    """The settings of a tracker; a subclass is a frozen dataclass whose fields are plain values.

    The settings travel from the configuration through the journal to the shipper, which makes them
    again and calls `connect`. The module of the settings must not import the tracker's library.
    """

    @property
    def system_metrics(self) -> bool:
        """Whether the shipper records the use of processor, memory and GPU for this tracker.

        A field of the dataclass with a default may replace this property.
        """
        return False

    def resolved(self) -> Self:
        """Returns the settings with the environment and the current folder looked up.

        The training process calls this, because the shipper has another environment and folder.
        """
        return self

    @abstractmethod
    def connect(self) -> TrackerClient:
        """Imports the tracker's library and returns a new client; called in the shipper.

        It does not contact the tracker: `TrackerClient.start` does.
        """
