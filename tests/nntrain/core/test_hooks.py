"""Hooks see every call of a module, change nothing, and are removed however the block ends."""

from typing import Any

import pytest
import torch
from torch import nn

from nntrain.core.hooks import Hook, Hooks


def n_hooks(model: nn.Module) -> int:
    """Returns the number of hooks, forward and backward, on a model and its submodules."""
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def output(module: nn.Module, inputs: Any, output: Any) -> Any:
    return output


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def test_forward_hook_stores_what_the_function_returns_for_the_last_run(
    model: nn.Sequential,
) -> None:
    with Hook(
        model[0], lambda module, inputs, output: (module, inputs[0].sum(), output.mean())
    ) as hook:
        model(torch.zeros(5, 3))
        x = torch.randn(5, 3)
        model(x)
    assert hook.stored[0] is model[0]
    assert torch.equal(hook.stored[1], x.sum())
    assert torch.equal(hook.stored[2], model[0](x).mean())


def test_backward_hook_gets_the_gradients_of_inputs_and_output(model: nn.Sequential) -> None:
    x = torch.randn(5, 3)
    with Hook(
        model[2], lambda module, grad_in, grad_out: (grad_in[0], grad_out[0]), forward=False
    ) as hook:
        model(x).sum().backward()
    grad_in, grad_out = hook.stored
    assert torch.equal(grad_out, torch.ones(5, 2))
    assert torch.allclose(grad_in, torch.ones(5, 2) @ model[2].weight)


def test_hook_gets_detached_tensors_and_changes_nothing(model: nn.Sequential) -> None:
    x = torch.randn(5, 3)
    expected = model(x)
    with Hook(model[0], lambda module, inputs, output: torch.zeros_like(output)):
        assert torch.equal(model(x), expected)
    with Hook(model[0], output) as hook:
        model(x)
    assert not hook.stored.requires_grad


def test_tuples_and_mappings_are_detached_too() -> None:
    with Hook(lstm := nn.LSTM(3, 4), output) as hook:
        lstm(torch.randn(5, 2, 3))
    out, (hidden, cell) = hook.stored
    assert [part.requires_grad for part in (out, hidden, cell)] == [False] * 3


@pytest.mark.parametrize("forward", [True, False])
def test_hooks_are_removed_when_the_block_ends(model: nn.Sequential, forward: bool) -> None:
    with Hooks(model, output, forward) as hooks:
        assert (len(hooks), n_hooks(model)) == (3, 3)
        model(torch.randn(2, 3, requires_grad=True)).sum().backward()
    assert n_hooks(model) == 0
    assert [type(stored) for stored in hooks.stored] == [torch.Tensor if forward else tuple] * 3
    assert hooks[1].stored is hooks.stored[1]
    assert [hook.stored is stored for hook, stored in zip(hooks, hooks.stored, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize("err", [ValueError("no"), KeyboardInterrupt()])
def test_hooks_are_removed_when_the_block_raises(model: nn.Sequential, err: BaseException) -> None:
    with pytest.raises(type(err)), Hooks(model, output):
        raise err
    assert n_hooks(model) == 0


def test_remove_may_be_called_twice(model: nn.Sequential) -> None:
    hooks = Hooks(model, output)
    hooks.remove()
    hooks.remove()
    assert n_hooks(model) == 0


def test_an_object_that_is_not_a_module_is_refused_and_leaves_no_hook(model: nn.Sequential) -> None:
    with pytest.raises(
        TypeError, match=r"needs an nn.Module but got str: pass a module of your model"
    ):
        Hooks([model[0], "2"], output)  # type: ignore[list-item]
    assert n_hooks(model) == 0
