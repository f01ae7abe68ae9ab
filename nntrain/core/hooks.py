"""Hooks that watch the modules of a model while it runs, and are always removed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias

from torch import Tensor, nn

from nntrain.core.batch import map_tensors

HookFunc: TypeAlias = Callable[[nn.Module, Any, Any], Any]
"""Called with a module, its inputs and its output; in a backward pass with their gradients."""


def _detached(value: Any) -> Any:
    return map_tensors(Tensor.detach, value)


class Hook:
    """Calls `func` each time a module has run, and keeps the last value it returned in `stored`.

    `func` receives detached tensors, in the nesting that the module uses; its return value does not
    change the module's output. A `with` statement removes the hook, however its block ends.

    Args:
        module: the module to watch.
        func: called with `(module, inputs, output)`, or in the backward pass with
            `(module, grad_inputs, grad_outputs)`.
        forward: watch the forward pass, else the backward pass. In the backward pass, torch forbids
            in-place changes of the module's output (no `ReLU(inplace=True)` after it), and warns if
            no input of the module needs a gradient.

    Raises:
        TypeError: if `module` is not an `nn.Module`.
    """

    def __init__(self, module: nn.Module, func: HookFunc, forward: bool = True) -> None:
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise TypeError(
                f"A hook needs an nn.Module but got {kind}: pass a module of the model."
            )
        self.func = func
        self.stored: Any = None
        register = module.register_forward_hook if forward else module.register_full_backward_hook
        self._handle = register(self._call)

    def _call(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.stored = self.func(module, _detached(inputs), _detached(output))

    def remove(self) -> None:
        """Removes the hook; a second call does nothing."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class Hooks:
    """A `Hook` on each of several modules, all with the same `func`; a sequence of hooks.

    Args:
        modules: the modules to watch.
        func: as for `Hook`.
        forward: as for `Hook`.

    Raises:
        TypeError: if one of `modules` is not an `nn.Module`; none is watched then.
    """

    def __init__(self, modules: Iterable[nn.Module], func: HookFunc, forward: bool = True) -> None:
        self._hooks: list[Hook] = []
        try:
            for module in modules:
                self._hooks.append(Hook(module, func, forward))
        except BaseException:
            self.remove()
            raise

    @property
    def stored(self) -> list[Any]:
        """The value that each hook stored, in the order of the modules."""
        return [hook.stored for hook in self._hooks]

    def remove(self) -> None:
        """Removes all hooks; a second call does nothing."""
        for hook in self._hooks:
            hook.remove()

    def __len__(self) -> int:
        return len(self._hooks)

    def __getitem__(self, index: int) -> Hook:
        return self._hooks[index]

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        err: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()
