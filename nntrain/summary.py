"""Model summary: a table of layers with shapes, parameters and multiply-accumulates (MACs)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor, nn

from nntrain.core.batch import tensors_in
from nntrain.core.callback import Purpose
from nntrain.core.hooks import Hooks
from nntrain.core.loop import Loop
from nntrain.core.snapshot import leave_no_trace
from nntrain.statistics import ROOT

if TYPE_CHECKING:
    from nntrain.learner import Learner

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerSummary:
    """A row of the summary: a module that has no children, or that has its own parameters.

    Attributes:
        name: the dotted name of the module.
        kind: the class name of the module.
        input_shape: shape of the first input tensor in the last call, including the batch axis;
            `None` if the module was not called.
        output_shape: shape of the first output tensor in the last call, including the batch axis;
            `None` if the module was not called.
        parameters: number of parameters. Shared parameters are counted only in their first row.
        trainable: number of trainable parameters.
        macs: number of multiply-accumulates over all calls.
    """

    name: str
    kind: str
    input_shape: Shape | None
    output_shape: Shape | None
    parameters: int
    trainable: int
    macs: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """The summary of a model for one batch, with rows in definition order; print it as a table.

    Multiply-accumulates (MACs) are counted for the whole batch, and only for `Linear`, `Conv1d`,
    `Conv2d` and `Conv3d`. The count ignores biases, activations, normalization, pooling,
    embeddings, transposed convolutions, recurrent layers, attention, and everything computed
    outside of these layers. One MAC is one multiplication and one addition, that is, two FLOPs.
    """

    rows: tuple[LayerSummary, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters; shared parameters are counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """The number of trainable parameters."""
        return sum(row.trainable for row in self.rows)

    @property
    def macs(self) -> int:
        """The number of multiply-accumulates in one forward pass of the batch."""
        return sum(row.macs for row in self.rows)

    def __str__(self) -> str:
        lines = _aligned([_HEADER, *map(_cells, self.rows)])
        rule = "-" * max(map(len, lines))
        totals = [
            f"Parameters: {self.parameters:,} ({self.trainable:,} trainable)",
            f"Multiply-accumulates for this batch: {self.macs:,}",
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])


_HEADER = ("layer", "type", "input", "output", "parameters", "trainable", "MACs")
_N_LEFT = 4


def _cells(row: LayerSummary) -> tuple[str, ...]:
    shapes = ("-" if shape is None else str(shape) for shape in (row.input_shape, row.output_shape))
    return (
        row.name,
        row.kind,
        *shapes,
        *(f"{n:,}" for n in (row.parameters, row.trainable, row.macs)),
    )


def _aligned(table: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(_padded(cell, i, widths[i]) for i, cell in enumerate(cells)) for cells in table
    ]


def _padded(cell: str, column: int, width: int) -> str:
    return cell.ljust(width) if column < _N_LEFT else cell.rjust(width)


def _macs(module: nn.Module, output: Tensor) -> int:
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return output.numel() * module.weight[0].numel()
    return 0


class _Probe:
    """Hook function that records each module's shapes and sums its MACs over all calls."""

    def __init__(self) -> None:
        self.shapes: dict[nn.Module, tuple[Shape | None, Shape | None]] = {}
        self.macs: dict[nn.Module, int] = {}

    def take(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.shapes[module] = (_first_shape(inputs), _first_shape(output))
        found = tensors_in(output)
        self.macs[module] = self.macs.get(module, 0) + (_macs(module, found[0]) if found else 0)


def _first_shape(value: Any) -> Shape | None:
    return next((tuple(tensor.shape) for tensor in tensors_in(value)), None)


def _is_layer(module: nn.Module) -> bool:
    return (
        next(module.children(), None) is None
        or next(module.parameters(recurse=False), None) is not None
    )


def _count(params: Iterable[nn.Parameter], seen: set[nn.Parameter]) -> tuple[int, int]:
    new = [param for param in params if param not in seen]
    seen.update(new)
    return sum(param.numel() for param in new), sum(
        param.numel() for param in new if param.requires_grad
    )


def _rows(layers: dict[str, nn.Module], probe: _Probe) -> tuple[LayerSummary, ...]:
    seen: set[nn.Parameter] = set()
    return tuple(
        LayerSummary(
            name,
            type(module).__name__,
            *probe.shapes.get(module, (None, None)),
            *_count(module.parameters(recurse=False), seen),
            probe.macs.get(module, 0),
        )
        for name, module in layers.items()
    )


def summarize(learn: Learner) -> ModelSummary:
    """Returns the shapes, parameters and MACs of each layer for one batch.

    Runs the first validation batch (or the first training batch, if there is no validation set)
    through the model like `Learner.get_preds`, including callbacks. Then restores the learner.

    Raises:
        TypeError: if a data loader can be iterated only once.
        ValueError: if the data loader is empty.
    """
    loader = learn.dls.train if learn.dls.valid is None else learn.dls.valid
    layers = {
        name or ROOT: module for name, module in learn.model.named_modules() if _is_layer(module)
    }
    probe = _Probe()
    with leave_no_trace(learn), Hooks(layers.values(), probe.take):
        Loop(learn, Purpose.PREDICT).validate(islice(loader, 1))
    return ModelSummary(_rows(layers, probe))
