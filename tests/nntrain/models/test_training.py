"""Every model of the package trains through the Learner."""

from typing import Any

import pytest
import torch
from torch import nn

from nntrain import Learner, accuracy
from nntrain.data import DataLoaders, autoencode, diabetes, digits, sine
from nntrain.models import autoencoder, cnn, mlp, resnet


@pytest.mark.parametrize(
    ("model", "dls", "loss_func"),
    [
        pytest.param(mlp, digits, nn.CrossEntropyLoss(), id="mlp"),
        pytest.param(
            lambda: mlp(norm=True, dropout=0.1),
            digits,
            nn.CrossEntropyLoss(),
            id="mlp, norm, dropout",
        ),
        pytest.param(
            lambda: cnn(channels=[8, 16]),
            lambda: digits(flat=False),
            nn.CrossEntropyLoss(),
            id="cnn",
        ),
        pytest.param(
            lambda: resnet(channels=[8, 16]),
            lambda: digits(flat=False),
            nn.CrossEntropyLoss(),
            id="resnet",
        ),
        pytest.param(
            autoencoder, lambda: autoencode(digits(flat=False)), nn.MSELoss(), id="autoencoder"
        ),
        pytest.param(
            lambda: mlp(10, 16, 1), lambda: diabetes(batch_size=16), nn.MSELoss(), id="diabetes"
        ),
        pytest.param(lambda: mlp(1, 16, 1, act="gelu"), sine, nn.MSELoss(), id="sine"),
    ],
)
def test_the_loss_goes_down(model: Any, dls: Any, loss_func: nn.Module) -> None:
    learn = Learner(model(), dls(), loss_func, lr=5e-3, opt_func=torch.optim.AdamW, device="cpu")
    before = learn.validate()["valid/loss"]
    after = learn.fit(2).metrics["valid/loss"]
    assert after < 0.9 * before


def test_an_mlp_reads_digits_with_at_least_095_accuracy() -> None:
    learn = Learner(
        mlp(),
        digits(),
        nn.CrossEntropyLoss(),
        lr=1e-2,
        opt_func=torch.optim.AdamW,
        metrics=[accuracy],
        device="cpu",
    )
    assert learn.fit_one_cycle(12).metrics["valid/accuracy"] >= 0.95


def test_an_mlp_fits_the_sine_down_to_its_noise() -> None:
    learn = Learner(
        mlp(1, [64, 64], 1, act="gelu"),
        sine(),
        nn.MSELoss(),
        lr=1e-2,
        opt_func=torch.optim.AdamW,
        device="cpu",
    )
    assert learn.fit_one_cycle(20).metrics["valid/loss"] == pytest.approx(0.1**2, rel=0.4)


def test_on_diabetes_an_mlp_comes_near_to_least_squares() -> None:
    dls: DataLoaders = diabetes()
    (x, y), (x_valid, y_valid) = dls.train.tensors, dls.valid.tensors  # type: ignore[attr-defined, union-attr]
    best = float((x_valid @ torch.linalg.lstsq(x, y).solution - y_valid).square().mean())
    learn = Learner(
        mlp(10, 32, 1), dls, nn.MSELoss(), lr=1e-2, opt_func=torch.optim.AdamW, device="cpu"
    )
    assert learn.fit_one_cycle(20).metrics["valid/loss"] == pytest.approx(best, rel=0.2)
