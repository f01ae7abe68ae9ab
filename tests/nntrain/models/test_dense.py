from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nntrain.models import ACTIVATIONS, Autoencoder, autoencoder, mlp


@pytest.mark.parametrize(
    ("hidden", "names", "shapes"),
    [
        ([], ["flatten", "head"], [(3, 5)]),
        (7, ["flatten", "linear0", "act0", "head"], [(7, 5), (3, 7)]),
        ([7], ["flatten", "linear0", "act0", "head"], [(7, 5), (3, 7)]),
        (
            (7, 9),
            ["flatten", "linear0", "act0", "linear1", "act1", "head"],
            [(7, 5), (9, 7), (3, 9)],
        ),
    ],
)
def test_hidden_gives_the_layers_and_their_names(
    hidden: Any, names: list[str], shapes: list[tuple[int, int]]
) -> None:
    model = mlp(5, hidden, 3)
    assert [name for name, _ in model.named_children()] == names
    assert [tuple(layer.weight.shape) for layer in model if isinstance(layer, nn.Linear)] == shapes


def test_norm_is_before_and_dropout_after_the_activation() -> None:
    model = mlp(5, 7, 3, norm=True, dropout=0.25, act="gelu")
    assert [(name, type(layer).__name__) for name, layer in model.named_children()] == [
        ("flatten", "Flatten"),
        ("linear0", "Linear"),
        ("norm0", "BatchNorm1d"),
        ("act0", "GELU"),
        ("dropout0", "Dropout"),
        ("head", "Linear"),
    ]
    assert model.get_submodule("dropout0").p == 0.25


@pytest.mark.parametrize("shape", [(4, 64), (4, 1, 8, 8), (1, 64), (4, 8, 8)])
def test_inputs_of_any_shape_are_flattened(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(shape)
    assert model(x).shape == (shape[0], 10)
    assert torch.equal(model(x), model(x.view(shape[0], 64)))


def outputs_by_layer(model: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    outputs = {}
    for name, layer in model.named_children():
        x = layer(x)
        outputs[name] = x
    return outputs


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_the_std_stays_near_one_through_ten_layers(act: str) -> None:
    stds = []
    for seed in range(4):
        torch.manual_seed(seed)
        with torch.no_grad():
            outputs = outputs_by_layer(mlp(400, [400] * 10, 400, act=act), torch.randn(128, 400))
        stds.append(
            [
                float(out.std())
                for name, out in outputs.items()
                if name.startswith("linear") or name == "head"
            ]
        )
    means = torch.tensor(stds).mean(dim=0)
    assert len(means) == 11
    assert means.min() > 0.8, means
    assert means.max() < 1.2, means


def test_torchs_own_initial_weights_would_let_the_std_vanish() -> None:
    torch.manual_seed(0)
    model = mlp(256, [256] * 10, 256)
    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    with torch.no_grad():
        assert model(torch.randn(512, 256)).std() < 0.1


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, third = (_seeded(seed) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def _seeded(seed: int) -> Tensor:
    torch.manual_seed(seed)
    return torch.cat([param.flatten() for param in mlp().parameters()])


@pytest.mark.parametrize("shape", [(4, 64), (4, 1, 8, 8)])
def test_an_autoencoder_gives_back_the_shape_of_its_input(shape: tuple[int, ...]) -> None:
    model, x = autoencoder(), torch.randn(shape)
    assert model(x).shape == shape
    assert model.encoder(x).shape == (4, 16)


def test_the_decoder_mirrors_the_encoder() -> None:
    model = autoencoder(20, [12, 8], 3, act="tanh")
    assert isinstance(model, Autoencoder)
    weights = [
        tuple(layer.weight.shape) for layer in model.modules() if isinstance(layer, nn.Linear)
    ]
    assert weights == [(12, 20), (8, 12), (3, 8), (8, 3), (12, 8), (20, 12)]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"n_in": 0}, "n_in=0 must be at least 1."),
        (mlp, {"n_out": 0}, "n_out=0 must be at least 1."),
        (mlp, {"hidden": 0}, "hidden=0 must be at least 1."),
        (mlp, {"hidden": [5, -1]}, "hidden=-1 must be at least 1."),
        (autoencoder, {"n_latent": 0}, "n_latent=0 must be at least 1."),
    ],
)
def test_sizes_below_one_are_refused_by_name(
    make: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        make(**options)


def test_dropout_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        mlp(dropout=1.5)
