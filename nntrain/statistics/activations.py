"""Statistics of layer outputs: magnitude, dead units and distribution."""

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
"""The number of values from which an output is summarized on its own.

Smaller outputs are collected first, because calling torch would cost more than the computation.
"""


def _numbers(outputs: Tensor, unit_dim: int) -> Tensor:
    """Returns the four statistics `(n, 4)` of each of `n` outputs of one shape."""
    # Scalar outputs are values of one unit.
    values = outputs if outputs.dim() > 2 else outputs.reshape(len(outputs), -1, 1)
    n, unit = values[0].numel(), 1 + unit_dim % (values.dim() - 1)
    means = values.flatten(1).mean(1, keepdim=True)
    variances = (values.flatten(1) - means).square_().sum(1) / max(n - 1, 1)
    largest = values.abs().amax([dim for dim in range(1, values.dim()) if dim != unit])
    return torch.stack(
        [means[:, 0], variances.sqrt_(), (largest == 0).float().mean(1), largest.amax(1)], 1
    )


def activation_statistics(activation: Tensor, unit_dim: int = 1) -> Tensor:
    """Returns mean, standard deviation, share of dead units and largest magnitude `(4,)`, float32.

    The result is on the same device. The standard deviation has Bessel's correction, as in torch,
    and is 0 for a single value. A unit is one index of axis `unit_dim`; it is dead if it is exactly
    0 for the whole batch at all positions.
    """
    return _numbers(activation[None].float(), unit_dim)[0]


class ActivationStats(Statistics):
    """Records statistics of layer outputs, to detect vanishing or exploding activations.

    ======================  ========================================================================
    key                     meaning, over all values of a layer's output for one training batch
    ======================  ========================================================================
    `act/LAYER/mean`        mean
    `act/LAYER/std`         standard deviation, with Bessel's correction
    `act/LAYER/dead_frac`   share of units (channels, features) that are 0 for the whole batch
    `act/LAYER/max_abs`     largest magnitude
    ======================  ========================================================================

    `histograms` returns the distribution as well, in the bins of `histogram_edges`. By default, all
    leaf modules are watched except those that only reshape, pass through or drop out. If an output
    is a tuple or mapping, its first floating-point tensor is used; if a module runs several times
    in a batch, the last run is used. Half precision is computed in float32. Hooks are on the model
    only during a sampled batch, so other batches cost nothing. Small outputs are copied and
    summarized later, several batches and layers in one pass.

    Args:
        modules, every, buffer_rows: as for `Statistics`.
        unit_dim: axis of the units in an output: 1 for `(batch, features)` and `(batch, channels,
            ...)`, -1 for `(batch, tokens, features)`.

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
        """Chooses the layers and starts a new record."""
        super().before_fit(learn)
        self._index = {module: i for i, module in enumerate(self._watched)}
        self._waiting = []

    def before_batch(self, learn: Learner) -> None:
        """Adds the hooks if the batch is sampled."""
        self._unhook()  # hooks remain if the last batch was cancelled before its prediction
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
            self._outputs[i] = found.to(self._row, copy=True)  # the next layer may work in place
        else:
            self._outputs[i] = None
            self._row[i] = self._summaries(found[None].float())[0]

    def after_pred(self, learn: Learner) -> None:
        """Removes the hooks and counts the row."""
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
        """Returns the row contents `(n, 4 + 81)` for each of `n` outputs of one shape."""
        return torch.cat([_numbers(outputs, self.unit_dim), histograms(outputs.flatten(1))], 1)

    def _unhook(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None

    def histograms(self) -> Tensor:
        """Returns the counts in the bins of `histogram_edges`; reads the device.

        The shape is `(steps, layers, 81)`, float32, on the CPU.
        """
        return self._rows()[..., len(self.names) :]

    def last_histograms(self) -> dict[str, list[float]]:
        """Returns the counts `(81,)` of the newest row per layer that ran, as `{"act/LAYER": ...}`.

        The result is empty if there are no rows. Only this row is read from the device.
        """
        row = None if self._buffer is None else self._buffer.newest()
        if row is None:
            return {}
        counts = row[:, len(self.names) :].tolist()
        return {f"{self.prefix}/{self.layers[i]}": counts[i] for i in self._ran[-1]}

    def cleanup_fit(self, learn: Learner) -> None:
        """Removes the hooks, reads all rows back and frees the device memory."""
        self._unhook()
        self._index, self._outputs, self._row = {}, {}, torch.empty(0)
        super().cleanup_fit(learn)
