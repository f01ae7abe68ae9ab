"""PyTorch module hooks as context managers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self, TypeAlias

from torch import Tensor, nn

from nntrain.core.batch import map_tensors

HookFunc: TypeAlias = Callable[[nn.Module, Any, Any], Any]
"""Called with a module, its inputs and its output (backward hooks: with their gradients)."""


def _detached(value: Any) -> Any:
    return map_tensors(Tensor.detach, value)


class Hook:
    """Calls a function after each forward or backward pass of a module.

    The function receives detached tensors. Its last return value is available as `stored`. The
    output of the module does not change. In a `with` statement, the hook is removed at the end of
    the block.

    Args:
        module: the module to watch.
        func: called with `(module, inputs, output)`. A backward hook calls it with
            `(module, grad_inputs, grad_outputs)`.
        forward: register a forward hook (True) or a backward hook (False). With a backward hook,
            PyTorch does not allow in-place changes to the module's output, such as
            `ReLU(inplace=True)`, and warns if no input of the module requires a gradient.

    Raises:
        TypeError: if `module` is not an `nn.Module`.
    """

    def __init__(self, module: nn.Module, func: HookFunc, forward: bool = True) -> None:
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise TypeError(f"Hook needs an nn.Module but got {kind}: pass a module of your model.")
        self.func = func
        self.stored: Any = None
        register = module.register_forward_hook if forward else module.register_full_backward_hook
        self._handle = register(self._call)

    def _call(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.stored = self.func(module, _detached(inputs), _detached(output))

    def remove(self) -> None:
        """Removes the hook. It is safe to call this more than once."""
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
    """A sequence of hooks that call the same function for several modules.

    Args:
        modules: the modules to watch.
        func: see `Hook`.
        forward: see `Hook`.

    Raises:
        TypeError: if one of `modules` is not an `nn.Module`. No hook is registered in this case.
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
        """The values stored by the hooks, in the order of the modules."""
        return [hook.stored for hook in self._hooks]

    def remove(self) -> None:
        """Removes all hooks. It is safe to call this more than once."""
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
