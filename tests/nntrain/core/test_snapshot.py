"""A `leave_no_trace` block leaves the learner unchanged, whatever code runs in the block."""

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler, TensorDataset

from nntrain import Callback, Event, Learner
from nntrain.core.snapshot import leave_no_trace
from nntrain.testing import RaiseAt
from tests.common.toys import Lists, regression_lists, toy_learner
from tests.common.twins import assert_same, assert_same_training, shuffled_learner


def run_wild(learn: Learner) -> None:
    """Trains with another learning rate within `leave_no_trace`."""
    with leave_no_trace(learn):
        learn.fit(1, lr=0.7)


@pytest.mark.parametrize("own_generator", [False, True], ids=["global generator", "own generator"])
@pytest.mark.parametrize("fitted", [0, 1], ids=["before the first fit", "between two fits"])
def test_later_training_is_the_same_with_and_without_the_block(
    own_generator: bool, fitted: int
) -> None:
    assert_same_training(
        lambda: shuffled_learner(own_generator, torch.optim.AdamW), run_wild, n_epoch_before=fitted
    )


def test_a_block_that_raises_leaves_no_trace() -> None:
    def fail(learn: Learner) -> None:
        with pytest.raises(OSError, match="disk"), leave_no_trace(learn):
            learn.fit(1, cbs=[RaiseAt(Event.AFTER_EPOCH, OSError("disk"))])

    assert_same_training(shuffled_learner, fail, n_epoch_before=1)


def test_attributes_of_the_learner_are_restored() -> None:
    learn = toy_learner()
    before = dict(vars(learn))
    run_wild(learn)
    assert vars(learn) == before
    assert learn.opt is None
    assert not hasattr(learn, "result")
    learn.fit(2)
    before = dict(vars(learn))
    run_wild(learn)
    assert list(vars(learn)) == list(before)
    assert all(vars(learn)[name] is value for name, value in before.items())
    assert (learn.n_epoch, learn.epoch, learn.train_iter) == (2, 1, 10)


def test_the_record_of_the_last_fit_survives() -> None:
    learn = toy_learner()
    learn.fit(3)
    rows, losses, lrs = (
        list(learn.recorder.rows),
        learn.recorder.losses.clone(),
        copy.deepcopy(learn.recorder.lrs),
    )
    run_wild(learn)
    assert learn.recorder.rows == rows
    assert_same(learn.recorder.losses, losses)
    assert learn.recorder.lrs == lrs


def test_optimizer_model_and_parameters_stay_the_same_objects() -> None:
    learn = toy_learner(opt_func=torch.optim.Adam)
    learn.fit(1)
    assert isinstance(learn.opt, torch.optim.Optimizer)
    opt, params = learn.opt, list(learn.model.parameters())
    state, groups = copy.deepcopy(opt.state_dict()), opt.param_groups
    pointers = [param.data_ptr() for param in params]
    run_wild(learn)
    assert learn.opt is opt
    assert opt.param_groups is groups
    assert all(one is other for one, other in zip(learn.model.parameters(), params, strict=True))
    assert [param.data_ptr() for param in params] == pointers
    assert_same(opt.state_dict(), state)


def test_optimizer_state_with_another_dtype_than_the_parameters_is_restored_exactly() -> None:
    learn = toy_learner(Lists([], None), nn.Linear(2, 2).bfloat16())
    learn.create_opt()
    (weight, _) = learn.model.parameters()
    state = torch.tensor([[1 / 3]])
    learn.opt.state[weight] = {"master": state, "step": 3}  # type: ignore[union-attr]
    with leave_no_trace(learn):
        learn.opt.state[weight] = {"master": state.bfloat16()}  # type: ignore[union-attr]
        state += 1
    assert learn.opt.state[weight] == {"master": torch.tensor([[1 / 3]]), "step": 3}  # type: ignore[union-attr]
    assert learn.opt.state[weight]["master"] is state  # type: ignore[union-attr]


def test_an_optimizer_that_is_not_from_torch_is_restored() -> None:
    class Momentum:
        def __init__(self, params: Any, *, lr: float) -> None:
            self.params = [param for group in params for param in group["params"]]
            self.lr, self.n, self.momentum = (
                lr,
                0,
                [torch.zeros_like(param) for param in self.params],
            )

        def step(self) -> None:
            self.n += 1
            for param, mean in zip(self.params, self.momentum, strict=True):
                assert param.grad is not None
                mean.mul_(0.9).add_(param.grad)
                param.data -= self.lr * mean

        def zero_grad(self) -> None:
            for param in self.params:
                param.grad = None

    learn = toy_learner(opt_func=Momentum)
    learn.fit(1)
    assert isinstance(learn.opt, Momentum)
    n, momentum = learn.opt.n, copy.deepcopy(learn.opt.momentum)
    with leave_no_trace(learn):
        learn.fit(1)
        assert learn.opt.n == 2 * n
    assert learn.opt.n == n
    assert_same(learn.opt.momentum, momentum)


@pytest.mark.parametrize("grad", [None, torch.tensor([[3.0]])], ids=["none", "some"])
def test_gradients_are_restored(grad: Tensor | None) -> None:
    model = nn.Linear(1, 1)
    model.weight.grad = grad
    learn = toy_learner(model=model)
    with leave_no_trace(learn):
        model(torch.ones(1, 1)).sum().backward()
        assert model.weight.grad != torch.tensor([[3.0]])
    assert model.weight.grad is grad
    if grad is not None:
        assert grad.item() == 3.0


def test_buffers_modes_hooks_and_attributes_of_modules_are_restored() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))
    norm = model[1]
    norm.eval()
    state = copy.deepcopy(model.state_dict())
    learn = toy_learner(model=model)
    with leave_no_trace(learn):
        learn.fit(1)
        norm.train()
        norm.register_buffer("extra", torch.zeros(1))
        norm.running_mean = torch.ones(2)
        norm.register_forward_hook(lambda *args: None)
        norm.momentum = 0.5
        model.append(nn.Linear(1, 1))
    assert not norm.training
    assert not norm._forward_hooks
    assert norm.momentum == 0.1
    assert len(model) == 3
    assert_same(model.state_dict(), state)


def test_recurrent_networks_still_use_their_own_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.lstm(x[:, None])[0][:, -1])
            return out

    learn = toy_learner(model=Net())
    state = copy.deepcopy(learn.model.state_dict())
    run_wild(learn)
    assert_same(learn.model.state_dict(), state)
    learn.fit(1)
    with torch.no_grad():
        hidden = learn.model.lstm(torch.ones(1, 1, 1))[0]
        learn.model.lstm.weight_ih_l0.zero_()
        assert not torch.equal(learn.model.lstm(torch.ones(1, 1, 1))[0], hidden)


@pytest.mark.parametrize(
    "buffer",
    [
        torch.arange(3.0).expand(4, 3),
        torch.empty(0),
        torch.eye(2).to_sparse(),
        torch.tensor(True),
        torch.zeros(2, dtype=torch.complex64),
    ],
    ids=["expanded", "empty", "sparse", "bool", "complex"],
)
def test_unusual_buffers_are_kept(buffer: Tensor) -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("unusual", buffer)
    learn = toy_learner(model=model)
    run_wild(learn)
    assert model.unusual is buffer


def test_lazy_modules_are_lazy_again() -> None:
    def make() -> Learner:
        torch.manual_seed(7)
        return toy_learner(
            model=nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyLinear(1))
        )

    learn, twin = make(), make()
    run_wild(learn)
    assert [type(module) for module in learn.model] == [
        nn.LazyLinear,
        nn.LazyBatchNorm1d,
        nn.LazyLinear,
    ]
    assert isinstance(learn.model[0].weight, nn.UninitializedParameter)
    for either in (learn, twin):
        torch.manual_seed(8)
        either.fit(2)
    assert_same(learn.model.state_dict(), twin.model.state_dict())


def test_a_loss_with_parameters_is_restored() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, pred: Tensor, target: Tensor) -> Tensor:
            with torch.no_grad():
                self.weight += 1
            return self.weight * nn.functional.mse_loss(pred, target)

    loss = Weighted()
    run_wild(toy_learner(loss_func=loss))
    assert loss.weight.item() == 1.0


@pytest.mark.parametrize(
    ("generator", "draw"),
    [
        (torch.Generator().manual_seed(1), lambda gen: torch.rand(1, generator=gen).item()),
        (np.random.default_rng(1), lambda gen: gen.random()),
        (random.Random(1), lambda gen: gen.random()),
    ],
    ids=["torch", "numpy", "python"],
)
@pytest.mark.parametrize("owner", ["callback", "dataset", "loader"])
def test_generators_of_callbacks_datasets_and_loaders_are_restored(
    generator: Any, draw: Callable[[Any], float], owner: str
) -> None:
    class Owner(Callback, Dataset[Any]):
        def __init__(self) -> None:
            self.rng = generator

        def __len__(self) -> int:
            return 8

        def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
            if i >= len(self):
                raise IndexError
            return torch.ones(1, 1), torch.ones(1, 1)

    own = Owner()
    options: dict[str, Any] = {
        "callback": {"cbs": [own]},
        "dataset": {"dls": Lists(DataLoader(own), None)},
        "loader": {"dls": Lists(own, None)},
    }
    learn = toy_learner(**options[owner])
    with leave_no_trace(learn):
        drawn = [draw(generator) for _ in range(3)]
    assert [draw(generator) for _ in range(3)] == drawn


def test_counters_of_a_loader_are_restored() -> None:
    class Epochs:
        def __init__(self) -> None:
            self.epoch = 0

        def __iter__(self) -> Iterator[Any]:
            self.epoch += 1
            return iter(regression_lists(seed=self.epoch).train)

    loader = Epochs()
    learn = toy_learner(Lists(loader, None))
    learn.fit(2)
    run_wild(learn)
    assert loader.epoch == 2


class CountingSampler(Sampler[int]):
    """A sampler that starts one item later in each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        self.epoch += 1
        return iter([(i + self.epoch) % 8 for i in range(8)])


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": CountingSampler(), "batch_size": 2},
        {"sampler": CountingSampler(), "batch_size": None},
        {"batch_sampler": BatchSampler(CountingSampler(), 2, drop_last=False)},
    ],
    ids=["batches", "items", "batch sampler"],
)
def test_samplers_are_restored(options: dict[str, Any]) -> None:
    loader: Any = DataLoader(TensorDataset(torch.ones(8, 1), torch.ones(8, 1)), **options)
    learn = toy_learner(Lists(loader, None))
    learn.fit(2)
    run_wild(learn)
    sampler = loader.sampler if "sampler" in options else loader.batch_sampler.sampler
    assert sampler.epoch == 2


def test_the_generator_of_a_loader_within_a_loader_is_restored() -> None:
    class Prefetcher:
        def __init__(self, inner: DataLoader[Any]) -> None:
            self.inner = inner

        @property
        def generator(self) -> torch.Generator:
            assert self.inner.generator is not None
            return self.inner.generator

        def __iter__(self) -> Iterator[Any]:
            return iter(self.inner)

    generator = torch.Generator().manual_seed(2)
    dataset = TensorDataset(torch.ones(8, 1), torch.ones(8, 1))
    learn = toy_learner(
        Lists(Prefetcher(DataLoader(dataset, 2, shuffle=True, generator=generator)), None)
    )
    learn.fit(1)
    state = generator.get_state()
    run_wild(learn)
    assert torch.equal(generator.get_state(), state)


def test_a_model_that_the_block_moves_or_casts_is_restored() -> None:
    model = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
    state = copy.deepcopy(model.state_dict())
    with leave_no_trace(toy_learner(model=model)):
        model.double()
    assert_same(model.state_dict(), state)


@pytest.mark.slow
@pytest.mark.parametrize("fitted", [0, 1], ids=["before the first fit", "between two fits"])
def test_persistent_workers_of_the_block_are_not_used_afterward(fitted: int) -> None:
    def make() -> Learner:
        return shuffled_learner(num_workers=1, persistent_workers=True, collate_fn=noisy_collate)

    assert_same_training(make, run_wild, n_epoch_before=fitted)


def noisy_collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Adds noise in the worker, from the worker's own generator."""
    x = torch.stack([item[0] for item in items])
    return x + 0.1 * torch.randn(x.shape), torch.stack([item[1] for item in items])


def test_a_loader_that_can_be_iterated_only_once_is_refused() -> None:
    learn = toy_learner(Lists(iter(regression_lists().train), None))
    with pytest.raises(
        TypeError, match="is an iterator, which can be used only once: pass an iterable"
    ):
        run_wild(learn)


def test_a_callback_that_holds_the_learner_does_not_cause_a_copy_of_the_data() -> None:
    class Holder(Callback):
        def after_create(self, learn: Learner) -> None:
            self.learn = learn

    dls = regression_lists()
    learn = toy_learner(dls, cbs=[Holder()])
    learn.fit(1)
    learn.dl = [Untouchable()]
    with leave_no_trace(learn):
        learn.n_epoch = 7
    assert learn.n_epoch == 1


class Untouchable(Tensor):
    def clone(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a batch was copied")
