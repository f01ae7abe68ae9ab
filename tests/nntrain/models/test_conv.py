from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from nntrain import Learner, accuracy
from nntrain.data import digits
from nntrain.models import ResBlock, cnn, conv_block, resnet

MAKERS = pytest.mark.parametrize("make", [cnn, resnet])


@MAKERS
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (28, 28), (64, 64), (1, 1)])
@pytest.mark.parametrize(
    ("n_in", "n_out", "channels"), [(1, 10, (16, 32, 64)), (3, 2, [4]), (2, 5, [8, 4])]
)
def test_images_of_any_size_give_one_row_of_outputs_each(
    make: Any, size: tuple[int, int], n_in: int, n_out: int, channels: Any
) -> None:
    assert make(n_in, n_out, channels)(torch.randn(3, n_in, *size)).shape == (3, n_out)


@pytest.mark.parametrize(
    ("stride", "size", "expected"), [(1, 8, 8), (2, 8, 4), (2, 7, 4), (2, 1, 1)]
)
@pytest.mark.parametrize("n_out", [4, 6])
def test_blocks_divide_the_size_by_the_stride_rounded_up(
    stride: int, size: int, expected: int, n_out: int
) -> None:
    x = torch.randn(2, 4, size, size)
    assert conv_block(4, n_out, stride=stride)(x).shape == (2, n_out, expected, expected)
    assert ResBlock(4, n_out, stride=stride)(x).shape == (2, n_out, expected, expected)


def test_kernels_of_other_odd_sizes_keep_the_size() -> None:
    assert conv_block(1, 2, kernel_size=5)(torch.randn(2, 1, 8, 8)).shape == (2, 2, 8, 8)


def test_the_modules_of_a_cnn_have_short_names() -> None:
    leaves = [
        name
        for name, module in cnn(channels=[4, 8], dropout=0.1).named_modules()
        if not list(module.children())
    ]
    blocks = [f"block{i}.{part}" for i in (0, 1) for part in ("conv", "norm", "act")]
    assert leaves == [*blocks, "pool", "flatten", "dropout", "head"]


def test_the_modules_of_a_resnet_have_short_names() -> None:
    model = resnet(channels=[4, 8], n_blocks=2)
    assert [name for name, _ in model.named_children()] == [
        "stem",
        "stage0",
        "stage1",
        "pool",
        "flatten",
        "head",
    ]
    assert [name for name, module in model.named_modules() if isinstance(module, ResBlock)] == [
        "stage0.0",
        "stage0.1",
        "stage1.0",
        "stage1.1",
    ]
    assert [name for name, _ in model.get_submodule("stage1.0").named_children()] == [
        "conv1",
        "norm1",
        "act1",
        "conv2",
        "norm2",
        "shortcut",
        "act2",
    ]


def test_a_residual_block_begins_as_its_shortcut() -> None:
    block, x = ResBlock(4, 4), torch.randn(2, 4, 8, 8)
    assert torch.equal(block(x), x.relu())
    strided = ResBlock(4, 4, stride=2)
    torch.testing.assert_close(strided(x), nn.functional.avg_pool2d(x, 2).relu())


def test_a_residual_block_adds_its_branch() -> None:
    block, x = ResBlock(4, 4), torch.randn(2, 4, 8, 8)
    nn.init.ones_(block.norm2.weight)
    branch = block.norm2(block.conv2(block.act1(block.norm1(block.conv1(x)))))
    torch.testing.assert_close(block(x), (branch + x).relu())


@MAKERS
def test_every_parameter_gets_a_gradient_when_the_branches_are_open(make: Any) -> None:
    model = make()
    for module in model.modules():
        if isinstance(module, ResBlock):
            nn.init.ones_(module.norm2.weight)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(
        param.grad is not None and param.grad.abs().sum() > 0 for param in model.parameters()
    )


@MAKERS
def test_the_first_outputs_have_the_scale_of_one(make: Any) -> None:
    torch.manual_seed(0)
    pred = make()(torch.randn(64, 1, 8, 8))
    assert 0.1 < pred.std() < 3
    assert nn.functional.cross_entropy(pred, torch.randint(10, (64,))) < 4


@MAKERS
@pytest.mark.parametrize("channels", [[], [0], [4, -1]])
def test_channels_must_be_numbers_of_at_least_one(make: Any, channels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"channels=.* must contain at least one number, and each"):
        make(channels=channels)


def test_a_resnet_needs_a_block_in_each_stage() -> None:
    with pytest.raises(ValueError, match=r"n_blocks=0 must be at least 1\."):
        resnet(n_blocks=0)


@MAKERS
def test_digits_are_read_with_at_least_095_accuracy_in_four_epochs(make: Any) -> None:
    torch.manual_seed(0)
    opt_func = partial(torch.optim.AdamW, betas=(0.9, 0.99))
    dls = digits(flat=False)
    learn = Learner(
        make(),
        dls,
        nn.CrossEntropyLoss(),
        lr=1e-2,
        opt_func=opt_func,
        metrics=[accuracy],
        device="cpu",
    )
    result = learn.fit_one_cycle(4)
    assert result.metrics["valid/accuracy"] >= 0.95
