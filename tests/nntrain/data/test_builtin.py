from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor

from nntrain.data import DataLoaders, TensorLoader, diabetes, digits, sine

MAKERS = pytest.mark.parametrize("make", [digits, diabetes, sine])
Make = Callable[..., DataLoaders]


def tensors(dls: DataLoaders) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    assert isinstance(dls.train, TensorLoader)
    assert isinstance(dls.valid, TensorLoader)
    return dls.train.tensors, dls.valid.tensors


def rows(*parts: tuple[Tensor, ...]) -> list[tuple[float, ...]]:
    """Returns the items of all parts as sorted rows of numbers."""
    return sorted(
        tuple(x.flatten().tolist() + y.flatten().tolist())
        for part in parts
        for x, y in zip(*part, strict=True)
    )


@MAKERS
def test_the_split_neither_depends_on_nor_changes_the_global_seed(make: Make) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = tensors(make())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = tensors(make())
    assert all(
        torch.equal(a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    )


@MAKERS
def test_another_seed_gives_another_split(make: Make) -> None:
    assert rows(tensors(make(seed=1))[1]) != rows(tensors(make(seed=2))[1])


@MAKERS
@pytest.mark.parametrize("valid_pct", [0.0, 1.0, 1.5, -0.1])
def test_a_share_that_leaves_nothing_is_refused(make: Make, valid_pct: float) -> None:
    with pytest.raises(
        ValueError, match=rf"valid_pct={valid_pct} must be greater than 0 and less than 1"
    ):
        make(valid_pct=valid_pct)


@MAKERS
def test_training_data_is_shuffled_and_batched_as_asked(make: Make) -> None:
    dls = make(batch_size=50, drop_last=True)
    n = len(tensors(dls)[0][0])
    assert [len(xb) for xb, _ in dls.train] == [50] * (n // 50)
    first, second = (next(iter(dls.train))[0] for _ in range(2))
    assert not torch.equal(first, second)


@MAKERS
def test_a_batch_larger_than_the_data_is_refused_with_drop_last(make: Make) -> None:
    with pytest.raises(
        ValueError, match=r"batch_size=5000 is larger than the training set of \d+ items"
    ):
        make(batch_size=5000, drop_last=True)


def test_digits_has_each_image_of_scikit_learn_once() -> None:
    bunch = load_digits()
    train, valid = tensors(digits())
    assert (len(train[0]), len(valid[0])) == (1437, 360)
    expected = (torch.tensor(bunch.data, dtype=torch.float32) / 16, torch.tensor(bunch.target))
    assert rows(train, valid) == rows(expected)


@pytest.mark.parametrize("valid_pct", [0.2, 0.5])
def test_digits_holds_out_the_same_share_of_each_class(valid_pct: float) -> None:
    train, valid = tensors(digits(valid_pct=valid_pct))
    n_valid, n_all = torch.bincount(valid[1]), torch.bincount(train[1]) + torch.bincount(valid[1])
    assert len(n_valid) == 10
    assert torch.all((n_valid - valid_pct * n_all).abs() < 1)


@pytest.mark.parametrize(("flat", "shape"), [(True, (64,)), (False, (1, 8, 8))])
def test_digits_have_the_documented_shapes_types_and_range(
    flat: bool, shape: tuple[int, ...]
) -> None:
    xb, yb = next(iter(digits(batch_size=32, flat=flat).train))
    assert (xb.shape, yb.shape) == ((32, *shape), (32,))
    assert (xb.dtype, yb.dtype) == (torch.float32, torch.int64)
    train, _ = tensors(digits(flat=flat))
    assert (train[0].min(), train[0].max()) == (0, 1)


def test_flat_digits_are_the_rows_of_the_images() -> None:
    flat, square = tensors(digits()), tensors(digits(flat=False))
    assert torch.equal(flat[1][0], square[1][0].flatten(1))
    assert torch.equal(flat[1][1], square[1][1])


def test_diabetes_is_standardized_with_the_training_set() -> None:
    train, valid = tensors(diabetes())
    assert [tuple(part.shape) for part in (*train, *valid)] == [
        (353, 10),
        (353, 1),
        (89, 10),
        (89, 1),
    ]
    for part in train:
        torch.testing.assert_close(part.mean(dim=0), torch.zeros(part.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.std(dim=0), torch.ones(part.shape[1]))
    assert valid[1].mean().abs() > 1e-3


def test_diabetes_has_all_patients() -> None:
    bunch = load_diabetes(scaled=False)
    train, valid = tensors(diabetes())
    scores = torch.cat([train[1], valid[1]]).flatten()
    raw = torch.tensor(bunch.target, dtype=torch.float32)
    slope = (raw.max() - raw.min()) / (scores.max() - scores.min())
    torch.testing.assert_close(
        scores.sort().values * slope + raw.min() - scores.min() * slope, raw.sort().values
    )
    assert 70 < slope < 85  # the standard deviation of the raw targets


def test_sine_has_the_given_noise() -> None:
    train, valid = tensors(sine(n_item=5000, noise=0.3))
    assert (len(train[0]), len(valid[0])) == (4000, 1000)
    x, y = torch.cat([train[0], valid[0]]), torch.cat([train[1], valid[1]])
    assert x.shape == y.shape == (5000, 1)
    assert 3.1 < x.max() < torch.pi
    assert -torch.pi < x.min() < -3.1
    assert (y - x.sin()).std() == pytest.approx(0.3, rel=0.03)


def test_sine_without_noise_is_the_sine() -> None:
    for x, y in tensors(sine(noise=0.0)):
        assert torch.equal(y, x.sin())


@pytest.mark.parametrize(
    ("make", "options"), [(digits, {"flat": False}), (diabetes, {}), (sine, {})]
)
def test_data_can_be_held_on_a_device_by_name(make: Make, options: dict[str, Any]) -> None:
    assert {
        tensor.device.type for part in tensors(make(device="cpu", **options)) for tensor in part
    } == {"cpu"}
    with pytest.raises(ValueError, match="device=nosuch is not available on this machine"):
        make(device="nosuch", **options)
