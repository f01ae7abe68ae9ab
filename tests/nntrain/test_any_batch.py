"""Batches of every kind go through the Learner, from a loader to metrics and predictions."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from nntrain import Learner, accuracy
from nntrain.data import DataLoaders, autoencode, digits
from nntrain.models import autoencoder, mlp
from tests.common.toys import Lists


def halves(n: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Two inputs and a target that needs both: y = a - b."""
    a, b = torch.randn(n, 3), torch.randn(n, 3)
    return a, b, (a - b).sum(dim=1, keepdim=True)


class Difference(nn.Module):
    """A linear model of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        out: Tensor = self.left(a) + self.right(b)
        return out


def fitted(
    dls: Any, model: nn.Module, loss_func: Any = nn.functional.mse_loss, **kwargs: Any
) -> Learner:
    learn = Learner(
        model, dls, loss_func, lr=0.05, opt_func=torch.optim.Adam, device="cpu", **kwargs
    )
    before = learn.validate()["valid/loss"]
    assert learn.fit(20).metrics["valid/loss"] < 0.2 * before
    return learn


def test_without_labels_the_loss_compares_with_the_inputs() -> None:
    dls = autoencode(digits(flat=False))
    learn = Learner(
        autoencoder(), dls, nn.MSELoss(), lr=1e-2, opt_func=torch.optim.Adam, device="cpu"
    )
    metrics = learn.fit(3).metrics
    variance = dls.valid.loader.tensors[0].var(dim=0).mean()  # type: ignore[union-attr]
    assert metrics["valid/loss"] < 0.5 * variance
    pred, target = learn.get_preds()
    assert pred.shape == (360, 1, 8, 8)
    assert target is None
    x = torch.cat([batch[0] for batch in dls.valid or []])
    assert (pred - x).square().mean().item() == pytest.approx(metrics["valid/loss"], rel=1e-5)


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"input": x}]
)
def test_an_unlabelled_batch_may_be_a_tensor_a_sequence_or_a_mapping(wrap: Any) -> None:
    x = torch.randn(64, 4) @ torch.randn(4, 4)

    class Identity(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input)

    loss = nn.functional.mse_loss
    loss_func = (
        (lambda pred, batch: loss(pred, batch["input"])) if isinstance(wrap(x), Mapping) else loss
    )
    fitted(Lists([wrap(part) for part in x.split(16)], [wrap(x)]), Identity(4, 4), loss_func)


def test_the_last_item_of_a_tuple_is_the_label_and_the_others_are_inputs() -> None:
    learn = fitted(DataLoaders.from_tensors(halves(), halves(16), batch_size=16), Difference())
    pred, target = learn.get_preds()
    assert target is not None
    assert pred.shape == target.shape == (16, 1)


def test_n_inp_sets_the_number_of_inputs_and_every_label_reaches_the_loss() -> None:
    a, _, _ = halves()
    x = torch.cat([a, a.square()], dim=1)
    both = (x, x[:, :1], x[:, 1:2])

    def loss_func(pred: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return nn.functional.mse_loss(pred, torch.cat([first, second], dim=1))

    fitted(DataLoaders.from_tensors(both, both, batch_size=16, n_inp=1), nn.Linear(6, 2), loss_func)


class HuggingFaceLike(nn.Module):
    """Takes keyword arguments and returns a mapping of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.classifier = nn.Embedding(20, 8), nn.Linear(8, 2)

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        mask = attention_mask.unsqueeze(-1)
        return {
            "logits": self.classifier(
                (self.embedding(input_ids) * mask).sum(dim=1) / mask.sum(dim=1)
            )
        }


def sentences(n: int) -> list[dict[str, Any]]:
    """Rows of tokens with padding; the class is whether the first token is at least 10."""
    tokens, lengths = torch.randint(20, (n, 6)), torch.randint(1, 7, (n,))
    first = tokens[:, :1] // 10 * 10
    tokens = first + tokens % 10
    mask = (torch.arange(6) < lengths.unsqueeze(1)).long()
    return [
        {"input_ids": row, "attention_mask": keep, "labels": int(row[0] >= 10)}
        for row, keep in zip(tokens, mask, strict=True)
    ]


def test_a_mapping_gives_keyword_arguments_and_its_label_goes_to_loss_and_metrics() -> None:
    def loss_func(pred: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(pred["logits"], target)

    def hf_accuracy(pred: Mapping[str, Tensor], target: Tensor) -> Tensor:
        return accuracy(pred["logits"], target)

    dls = DataLoaders.from_datasets(sentences(128), sentences(32), batch_size=16)
    learn = fitted(dls, HuggingFaceLike(), loss_func, metrics=[hf_accuracy])
    assert learn.recorder.last("valid/hf_accuracy") >= 0.9


class Graph(NamedTuple):
    """A batch as a named tuple."""

    a: Tensor
    b: Tensor
    y: Tensor


def test_a_named_tuple_is_split_like_a_tuple() -> None:
    fitted(Lists([Graph(*halves())] * 4, [Graph(*halves())]), Difference())


def test_inputs_may_be_nested() -> None:
    class Nested(Difference):
        def forward(self, parts: dict[str, list[Tensor]]) -> Tensor:  # type: ignore[override]
            return super().forward(*parts["pair"])

    a, b, y = halves()
    batch = [{"pair": [a, b]}, y]

    class Positional(Learner):
        def predict(self) -> Any:
            return self.model(self.xb[0])

    learn = Positional(
        Nested(), Lists([batch] * 8, [batch]), nn.functional.mse_loss, lr=0.1, device="cpu"
    )
    before = learn.validate()["valid/loss"]
    assert learn.fit(5).metrics["valid/loss"] < 0.2 * before


class Stream(IterableDataset[tuple[Tensor, Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return zip(*halves(48), strict=True)


def test_a_stream_without_length_trains() -> None:
    learn = fitted(DataLoaders.from_datasets(Stream(), Stream(), batch_size=16), Difference())
    assert learn.n_iter is None
    assert learn.train_iter == 20 * 3


def test_both_loaders_give_the_same_fit_for_the_same_tensors() -> None:
    def losses(dls: DataLoaders) -> Tensor:
        torch.manual_seed(0)
        learn = Learner(mlp(6, 4, 1), dls, nn.functional.mse_loss, lr=0.1, device="cpu")
        learn.fit(2)
        return learn.recorder.losses

    a, b, y = halves()
    tensors = (torch.cat([a, b], dim=1), y)
    dataset = torch.utils.data.TensorDataset(*tensors)
    options: dict[str, Any] = {"batch_size": 10, "shuffle": False}
    assert torch.equal(
        losses(DataLoaders.from_tensors(tensors, **options)),
        losses(DataLoaders.from_datasets(dataset, **options)),
    )
