"""Statistics of layer outputs: mean, spread, dead units and histograms."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from nntrain.core.batch import tensors_in
from nntrain.core.hooks import Hooks
from nntrain.statistics.base import Statistics
from nntrain.statistics.histograms import N_BINS, histograms
from nntrain.statistics.modules import Modules

if TYPE_CHECKING:
    from nntrain.learner import Learner

_SILENT = (nn.Flatten, nn.Unflatten, nn.Identity, nn.modules.dropout._DropoutNd)

_ENOUGH = 2**16
"""The minimum number of values in an output that is summarized immediately.

Smaller outputs are collected first, because the overhead of a torch call would dominate.
"""


def _numbers(outputs: Tensor, unit_dim: int) -> Tensor:
    """Computes the four statistics of each of `n` outputs of the same shape; returns `(n, 4)`."""
    # Treat outputs with one value per item as a single unit.
    values = outputs if outputs.dim() > 2 else outputs.reshape(len(outputs), -1, 1)
    n, unit = values[0].numel(), 1 + unit_dim % (values.dim() - 1)
    means = values.flatten(1).mean(1, keepdim=True)
    variances = (values.flatten(1) - means).square_().sum(1) / max(n - 1, 1)
    largest = values.abs().amax([dim for dim in range(1, values.dim()) if dim != unit])
    return torch.stack(
        [means[:, 0], variances.sqrt_(), (largest == 0).float().mean(1), largest.amax(1)], 1
    )


def activation_statistics(activation: Tensor, unit_dim: int = 1) -> Tensor:
    """Returns the mean, standard deviation, fraction of dead units and maximum absolute value.

    The result is a float32 tensor `(4,)` on the same device. As in torch, the standard deviation
    uses Bessel's correction; for a single value it is 0. A unit is one index along axis `unit_dim`.
    A unit is dead if its output is exactly 0 for all items of the batch and all positions.
    """
    return _numbers(activation[None].float(), unit_dim)[0]


class ActivationStats(Statistics):
    """Records statistics of layer outputs, which help to detect vanishing or exploding activations.

    ======================  ========================================================================
    key                     meaning, over all values of a layer's output for one training batch
    ======================  ========================================================================
    `act/LAYER/mean`        mean
    `act/LAYER/std`         standard deviation, with Bessel's correction
    `act/LAYER/dead_frac`   fraction of units (channels, features) that are 0 for every item
    `act/LAYER/max_abs`     maximum absolute value
    ======================  ========================================================================

    `histograms` returns histograms of the outputs; `histogram_edges` defines the bins. By default,
    all leaf modules are watched except reshaping, identity and dropout modules. If an output is a
    tuple or mapping, the first floating-point tensor in it is used. If a module is called several
    times in a batch, the last call is used. Half-precision outputs are converted to float32. Hooks
    are attached only during sampled batches, so other batches cost nothing. Small outputs are
    copied first, and then summarized in one pass over several batches and layers.

    Args:
        modules, every, buffer_rows: see `Statistics`.
        unit_dim: axis of an output that indexes the units: 1 for `(batch, features)` and
            `(batch, channels, ...)`, -1 for `(batch, tokens, features)`.

    Raises:
        ValueError: if `unit_dim` is neither 1 nor -1.
    """

    prefix: ClassVar[str] = "act"
    names: ClassVar[tuple[str, ...]] = ("mean", "std", "dead_frac", "max_abs")

    def __init__(
        self,
        *,
        modules: Modules | None = None,
        every: int = 1,
        buffer_rows: int = 256,
        unit_dim: int = 1,
    ) -> None:
        super().__init__(modules=modules, every=every, buffer_rows=buffer_rows)
        if unit_dim not in (1, -1):
            raise ValueError(
                f"unit_dim={unit_dim} must be 1 (channels first) or -1 (features last)."
            )
        self.unit_dim = unit_dim
        self._hooks: Hooks | None = None
        self._row = torch.empty(0)
        self._outputs: dict[int, Tensor | None] = {}
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def _watches(self, module: nn.Module) -> bool:
        return not isinstance(module, _SILENT) and next(module.children(), None) is None

    def _row_shape(self) -> tuple[int, ...]:
        return (len(self.layers), len(self.names) + N_BINS)

    def before_fit(self, learn: Learner) -> None:
        """Selects the layers and clears the recorded rows."""
        super().before_fit(learn)
        self._index = {module: i for i, module in enumerate(self._watched)}
        self._waiting = []

    def before_batch(self, learn: Learner) -> None:
        """Attaches the hooks if the batch is sampled."""
        # Hooks are left over if the previous batch was cancelled before `after_pred`.
        self._unhook()
        if self._is_due(learn):
            self._row, self._outputs = self._begin_row(), {}
            self._hooks = Hooks(self._watched, self._take)

    def _take(self, module: nn.Module, inputs: Any, output: Any) -> None:
        found = next(
            (part for part in tensors_in(output) if part.is_floating_point() and part.numel()), None
        )
        if found is None:
            return
        i = self._index[module]
        if found.numel() < _ENOUGH:
            # The next layer may modify the output in place.
            self._outputs[i] = found.to(self._row, copy=True)
        else:
            self._outputs[i] = None
            self._row[i] = self._summaries(found[None].float())[0]

    def after_pred(self, learn: Learner) -> None:
        """Removes the hooks and commits the row."""
        if self._hooks is not None:
            self._unhook()
            self._end_row(learn, self._outputs)
            self._waiting += [
                (self._row[i], output) for i, output in self._outputs.items() if output is not None
            ]
            if sum(output.numel() for _, output in self._waiting) >= _ENOUGH:
                self._finish_rows()

    def _finish_rows(self) -> None:
        by_shape = defaultdict[torch.Size, list[tuple[Tensor, Tensor]]](list)
        for place, output in self._waiting:
            by_shape[output.shape].append((place, output))
        for same in by_shape.values():
            values = self._summaries(torch.stack([output for _, output in same]))
            torch._foreach_copy_([place for place, _ in same], values.unbind())
        self._waiting = []

    def _summaries(self, outputs: Tensor) -> Tensor:
        """Computes statistics and histograms of `n` outputs of one shape; returns `(n, 4 + 81)`."""
        return torch.cat([_numbers(outputs, self.unit_dim), histograms(outputs.flatten(1))], 1)

    def _unhook(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def histograms(self) -> Tensor:
        """Returns the histogram counts of all recorded rows; copies new rows from the device.

        The result is a float32 tensor `(steps, layers, 81)` on the CPU. The bins are those of
        `histogram_edges`.
        """
        return self._rows()[..., len(self.names) :]

    def last_histograms(self) -> dict[str, list[float]]:
        """Returns the histogram counts `(81,)` of the newest row, as `{"act/LAYER": counts}`.

        Layers that did not run are omitted. The result is empty if there are no rows. Only this row
        is copied from the device.
        """
        row = None if self._buffer is None else self._buffer.newest()
        if row is None:
            return {}
        counts = row[:, len(self.names) :].tolist()
        return {f"{self.prefix}/{self.layers[i]}": counts[i] for i in self._ran[-1]}

    def cleanup_fit(self, learn: Learner) -> None:
        """Removes the hooks, copies all rows to the CPU and frees the device memory."""
        self._unhook()
        self._index, self._outputs, self._row = {}, {}, torch.empty(0)
        super().cleanup_fit(learn)
