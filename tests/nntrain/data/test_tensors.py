from itertools import islice

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nntrain.core.rng import generators_of, kept_rng, rng_state, set_rng_state
from nntrain.data import TensorLoader
from nntrain.testing import counted_reads

SIZES = [
    (10, 1, False),
    (10, 3, False),
    (10, 3, True),
    (9, 3, False),
    (9, 3, True),
    (5, 8, False),
    (100, 2, False),
    (101, 3, True),
]


def pair(n: int) -> tuple[Tensor, Tensor]:
    """Returns inputs from which the label can be computed."""
    y = torch.arange(n)
    return torch.stack([y, -y], dim=1).float(), y


def labels(loader: TensorLoader) -> list[int]:
    return [int(label) for _, yb in loader for label in yb]


@pytest.mark.parametrize(("n", "bs", "drop_last"), SIZES)
def test_without_shuffle_the_batches_are_those_of_a_torch_loader(
    n: int, bs: int, drop_last: bool
) -> None:
    ours = TensorLoader(*pair(n), batch_size=bs, drop_last=drop_last)
    theirs = DataLoader(TensorDataset(*pair(n)), batch_size=bs, drop_last=drop_last)
    assert len(ours) == len(theirs) == len(list(ours))
    for our, their in zip(ours, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(our, their, strict=True))


@pytest.mark.parametrize(("n", "bs", "drop_last"), SIZES)
def test_with_shuffle_the_items_are_those_of_a_torch_loader(
    n: int, bs: int, drop_last: bool
) -> None:
    ours = TensorLoader(*pair(n), batch_size=bs, drop_last=drop_last, shuffle=True)
    theirs = DataLoader(TensorDataset(*pair(n)), batch_size=bs, drop_last=drop_last, shuffle=True)
    assert [len(yb) for _, yb in ours] == [len(yb) for _, yb in theirs]
    seen = labels(ours)
    assert len(set(seen)) == len(seen) == (n // bs * bs if drop_last else n)
    assert set(seen) <= set(range(n))


def test_shuffling_keeps_inputs_and_labels_together() -> None:
    for xb, yb in TensorLoader(*pair(100), batch_size=7, shuffle=True):
        assert torch.equal(xb, torch.stack([yb, -yb], dim=1).float())


def test_each_epoch_has_another_order_and_the_same_seed_the_same_orders() -> None:
    loader = TensorLoader(*pair(50), batch_size=8, shuffle=True)
    torch.manual_seed(3)
    first, second = labels(loader), labels(loader)
    assert first != second
    torch.manual_seed(3)
    assert [labels(loader), labels(loader)] == [first, second]


def test_its_own_generator_neither_reads_nor_moves_the_global_one() -> None:
    def orders(global_seed: int) -> list[int]:
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        order = labels(
            TensorLoader(*pair(50), shuffle=True, generator=torch.Generator().manual_seed(1))
        )
        assert torch.equal(torch.get_rng_state(), before)
        return order

    assert orders(0) == orders(1)


def test_without_shuffle_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    list(TensorLoader(*pair(50)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_checkpoint_restores_the_generator_and_the_order() -> None:
    generator = torch.Generator().manual_seed(1)
    loader = TensorLoader(*pair(50), shuffle=True, generator=generator)
    assert generators_of(loader) == [generator]
    state = rng_state([loader])
    order = labels(loader)
    set_rng_state(state, [loader])
    assert labels(loader) == order
    with kept_rng([loader]):
        next_order = labels(loader)
    assert labels(loader) == next_order != order


@pytest.mark.parametrize("shuffle", [False, True])
def test_in_place_changes_of_a_batch_do_not_reach_the_data(shuffle: bool) -> None:
    x, y = pair(20)
    for xb, yb in TensorLoader(x, y, batch_size=6, shuffle=shuffle):
        xb.zero_()
        yb.zero_()
    assert torch.equal(x, pair(20)[0])
    assert torch.equal(y, pair(20)[1])


def test_a_batch_takes_part_in_autograd_like_any_other() -> None:
    (xb, _) = next(iter(TensorLoader(*pair(20), batch_size=6)))
    xb.requires_grad_().square().sum().backward()
    assert torch.equal(xb.grad, 2 * xb.detach())


def test_reading_some_batches_does_not_gather_the_rest() -> None:
    loader = TensorLoader(*pair(1000), batch_size=1)
    first = list(islice(loader, 2))
    assert first[1][1].untyped_storage().nbytes() < 1000 * 8


def test_no_batch_is_read_back() -> None:
    loader = TensorLoader(*pair(100), batch_size=2, shuffle=True)
    with counted_reads() as reads:
        assert len(list(loader)) == 50
    assert reads.n == 0


def test_a_single_tensor_gives_batches_of_one_item() -> None:
    assert [len(batch) for batch in TensorLoader(torch.ones(5, 2), batch_size=2)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("tensors", "options", "message"),
    [
        ((), {}, "The dataset has no tensors: pass at least one tensor."),
        ((torch.ones(0, 2),), {}, "The dataset is empty: pass at least one item."),
        (
            (torch.ones(3), torch.ones(4)),
            {},
            "The tensors of the dataset must have the same length, but they have 3, 4 items.",
        ),
        ((torch.ones(3),), {"batch_size": 0}, "batch_size=0 must be at least 1."),
        (
            (torch.ones(3),),
            {"batch_size": 4, "drop_last": True, "name": "training set"},
            "batch_size=4 is larger than the training set of 3 items, "
            "so drop_last would drop its only batch: "
            "set batch_size to at most 3, or set drop_last=False.",
        ),
        (
            (torch.ones(3), torch.tensor([float("nan"), 1.0, float("inf")])),
            {},
            "Tensor 1 of the dataset must be finite, but 2 of 3 values are NaN or infinite: "
            "replace or remove them.",
        ),
    ],
)
def test_bad_data_is_an_error_of_one_sentence(
    tensors: tuple[Tensor, ...], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        TensorLoader(*tensors, **options)
    assert str(caught.value) == message


def test_a_batch_as_large_as_the_data_is_kept_with_drop_last() -> None:
    assert len(list(TensorLoader(torch.ones(3), batch_size=3, drop_last=True))) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_an_accelerator_the_order_is_that_of_the_cpu_and_no_batch_leaves_it() -> None:
    torch.manual_seed(0)
    expected = labels(TensorLoader(*pair(100), batch_size=7, shuffle=True))
    loader = TensorLoader(*(tensor.cuda() for tensor in pair(100)), batch_size=7, shuffle=True)
    torch.manual_seed(0)
    assert all(part.is_cuda for batch in loader for part in batch)
    torch.manual_seed(0)
    assert labels(loader) == expected
    own = TensorLoader(
        *(tensor.cuda() for tensor in pair(100)),
        shuffle=True,
        generator=torch.Generator("cuda").manual_seed(0),
    )
    assert sorted(labels(own)) == list(range(100))
