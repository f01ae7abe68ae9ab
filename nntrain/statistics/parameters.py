"""Per-layer norms of gradients, weights and updates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from nntrain.statistics.base import Statistics
from nntrain.statistics.modules import choose_modules

if TYPE_CHECKING:
    from nntrain.learner import Learner


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [param for param in module.parameters(recurse=False) if param.requires_grad]


def _dense(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor


class NormsByLayer:
    """Computes the Euclidean norm of each layer's tensors, for all layers in a few kernel launches.

    Args:
        sizes: number of tensors of each layer.
        device: device of the tensors.
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        n = sum(sizes)
        by_layer = torch.arange(n).split_with_sizes(list(sizes))
        self._slots = nn.utils.rnn.pad_sequence(
            list(by_layer), batch_first=True, padding_value=n
        ).to(device)
        self._zero = torch.zeros((), device=device)

    def __call__(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns one norm per layer, as a float32 tensor `(layers,)`.

        `tensors` contains the tensors of all layers in order. `None` is treated as zeros.
        """
        found = [_dense(tensor) for tensor in tensors if tensor is not None]
        known = iter(torch._foreach_norm(found, 2, dtype=torch.float32) if found else ())
        every = [self._zero if tensor is None else next(known) for tensor in tensors]
        norms: Tensor = torch.linalg.vector_norm(
            torch.stack([*every, self._zero])[self._slots], dim=1
        )
        return norms


class ParameterStatistics(Statistics):
    """Base class that records one norm per module that directly owns trainable parameters."""

    names: ClassVar[tuple[str, ...]] = ("norm",)

    def _watches(self, module: nn.Module) -> bool:
        return bool(_trainable(module))

    def _choose(self, model: nn.Module) -> dict[str, nn.Module]:
        chosen = super()._choose(model)
        if bare := [name for name, module in chosen.items() if not self._watches(module)]:
            able = choose_modules(model, None, self._watches)
            raise ValueError(
                f"modules must own trainable parameters, but {', '.join(bare)} "
                f"{'does' if len(bare) == 1 else 'do'} not: choose from {', '.join(able)}."
            )
        return chosen

    def before_fit(self, learn: Learner) -> None:
        """Selects the layers and clears the recorded rows."""
        super().before_fit(learn)
        by_layer = [_trainable(module) for module in self._watched]
        self._params = [param for params in by_layer for param in params]
        self._owners = [i for i, params in enumerate(by_layer) for _ in params]
        self._norms = NormsByLayer([len(params) for params in by_layer], learn.device)

    def _record(self, learn: Learner, values: Tensor, ran: Iterable[int]) -> None:
        self._begin_row()[:, 0] = values
        self._end_row(learn, ran)

    def cleanup_fit(self, learn: Learner) -> None:
        """Copies all rows to the CPU and releases the parameters."""
        self._params, self._owners = [], []
        super().cleanup_fit(learn)


class GradientStats(ParameterStatistics):
    """Records the Euclidean norm of each layer's gradient after backward and before clipping.

    The keys are `grad/LAYER/norm`. The norm covers only parameters that the layer directly owns and
    that have a gradient. Layers without a gradient are omitted. With gradient accumulation, the
    norm is computed from the gradient accumulated so far.

    Args:
        modules, every, buffer_rows: see `Statistics`.
    """

    order: ClassVar[int] = 5
    prefix: ClassVar[str] = "grad"

    @torch.no_grad()
    def after_backward(self, learn: Learner) -> None:
        """Records the norms if the batch is sampled."""
        if self._is_due(learn):
            grads = [param.grad for param in self._params]
            ran = {
                owner for owner, grad in zip(self._owners, grads, strict=True) if grad is not None
            }
            self._record(learn, self._norms(grads), ran)


class WeightStats(ParameterStatistics):
    """Records the Euclidean norm of each layer's trainable parameters after the optimizer step.

    The keys are `weight/LAYER/norm`. The norm covers only parameters that the layer directly owns.

    Args:
        modules, every, buffer_rows: see `Statistics`.
    """

    prefix: ClassVar[str] = "weight"

    @torch.no_grad()
    def after_step(self, learn: Learner) -> None:
        """Records the norms if the batch is sampled."""
        if self._is_due(learn):
            self._record(learn, self._norms(self._params), range(len(self.layers)))


class UpdateStats(ParameterStatistics):
    """Records the update ratio of each layer: norm of the weight change / norm of the weights.

    The keys are `update/LAYER/ratio`. A ratio of about 1e-3 is typical (Karpathy, 2015,
    https://cs231n.github.io/neural-networks-3/#ratio). The callback copies the weights before a
    sampled optimizer step and compares them with the weights after the step, so the ratio is
    correct for any optimizer. If the weights were 0 before the step, the ratio is infinite.
    Cancelled steps are not recorded.

    Args:
        modules, every, buffer_rows: see `Statistics`.
    """

    prefix: ClassVar[str] = "update"
    names: ClassVar[tuple[str, ...]] = ("ratio",)
    _before: list[Tensor]

    def before_fit(self, learn: Learner) -> None:
        """Selects the layers and clears the recorded rows."""
        super().before_fit(learn)
        self._before = []

    def before_step(self, learn: Learner) -> None:
        """Copies the weights if the batch is sampled."""
        if self._is_due(learn):
            self._before = [param.detach().clone() for param in self._params]

    def after_cancel_step(self, learn: Learner) -> None:
        """Discards the copy of the weights."""
        self._before = []

    @torch.no_grad()
    def after_step(self, learn: Learner) -> None:
        """Records the update ratios, computed from the copy and the new weights."""
        if self._before:
            before = self._norms(self._before)
            torch._foreach_sub_(self._before, list[Tensor](self._params))
            self._record(learn, self._norms(self._before) / before, range(len(self.layers)))
            self._before = []

    def cleanup_fit(self, learn: Learner) -> None:
        """Copies all rows to the CPU and discards the copy of the weights."""
        self._before = []
        super().cleanup_fit(learn)
