"""Mixed items, labels and losses equal fastai's for the same seed, and match the formula."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nntrain import Callback, Event, Learner
from nntrain.callbacks import MixUp
from nntrain.callbacks.mixup import reduction_of
from nntrain.testing import RaiseAt
from tests.common.reference import reference
from tests.common.scripted import CourseSpy
from tests.common.toys import Lists, batches, regression_lists, toy_learner

FASTAI = reference("callbacks")["mixup"]
cross_entropy = nn.functional.cross_entropy


def items(n: int = 24) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=gen), torch.randint(0, 3, (n,), generator=gen)


def loaders(lists: Lists, bs: int) -> Lists:
    """Converts lists of batches to torch DataLoaders.

    A DataLoader draws one number from torch's generator in each epoch. fastai's loaders do the
    same, so the random numbers match the reference.
    """
    x, y = (torch.cat(part) for part in zip(*lists.train, strict=True))
    xv, yv = (torch.cat(part) for part in zip(*(lists.valid or ()), strict=True))
    return Lists(DataLoader(TensorDataset(x, y), bs), DataLoader(TensorDataset(xv, yv), bs))


def classifier(loss_func: Any, lr: float = 0.1, cbs: tuple[Callback, ...] = ()) -> Learner:
    x, y = items()
    torch.manual_seed(0)
    dls = loaders(Lists(batches(x[:16], y[:16], 8), batches(x[16:], y[16:], 8)), 8)
    return Learner(nn.Linear(4, 3), dls, loss_func, lr=lr, cbs=cbs, device="cpu")


LEARNERS = {
    "labels": partial(classifier, nn.CrossEntropyLoss()),
    "labels of a function": partial(classifier, cross_entropy),
    "label_smoothing": partial(classifier, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "sum": partial(classifier, nn.CrossEntropyLoss(reduction="sum"), 0.01),
    "sum of a function": partial(classifier, partial(cross_entropy, reduction="sum"), 0.01),
    "floats": lambda: toy_learner(loaders(regression_lists(), 8)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_losses_and_weights_are_fastais_for_the_same_seed(name: str) -> None:
    learn = LEARNERS[name]()  # type: ignore[operator]
    torch.manual_seed(1)
    learn.fit(2, cbs=[MixUp(0.4), spy := CourseSpy()])
    expected = FASTAI[name.split(" ")[0]]
    torch.testing.assert_close(
        learn.recorder.losses, torch.tensor(expected["losses"]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        torch.stack(spy.weights), torch.tensor(expected["weights"]), rtol=1e-5, atol=1e-6
    )
    losses = [row["valid/loss"] for row in learn.recorder.rows]
    assert losses == pytest.approx(expected["valid_losses"], rel=1e-5)


class Batches(Callback):
    """Records the inputs, labels and predictions of the training batches."""

    order = 40

    def before_fit(self, learn: Learner) -> None:
        self.seen: list[tuple[Any, Any, Any]] = []

    def after_loss(self, learn: Learner) -> None:
        if learn.training:
            self.seen.append((learn.xb, learn.yb, learn.pred))


def two_items() -> Lists:
    """Returns one batch of two items, 0 and 1, so a mixed input is the fraction of item 1."""
    batch = (torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]))
    return Lists([batch], None)


def test_each_item_keeps_the_larger_share_and_the_loss_has_the_same_shares() -> None:
    shares = []
    for seed in range(5):
        torch.manual_seed(seed)
        learn = Learner(
            nn.Linear(1, 2),
            two_items(),
            cross_entropy,
            device="cpu",
            cbs=[MixUp(1.0), seen := Batches()],
        )
        learn.fit(1)
        (x,), (y,), pred = seen.seen[0]
        share = torch.stack([1 - x[0, 0], x[1, 0]]).detach()
        shares.append(share)
        own, other = (
            cross_entropy(pred, y, reduction="none"),
            cross_entropy(pred, 1 - y, reduction="none"),
        )
        partner = torch.where(share == 1, own, other)  # an item may be mixed with itself
        expected = (share * own + (1 - share) * partner).mean()
        torch.testing.assert_close(learn.recorder.losses[0], expected.detach())
        assert y.tolist() == [0, 1]
    assert 0.5 <= float(torch.stack(shares).min()) < 0.75


def test_a_loss_without_reduction_gets_one_share_for_the_batch() -> None:
    def loss(pred: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"half": cross_entropy(pred, target) / 2, "rest": cross_entropy(pred, target) / 2}

    torch.manual_seed(3)
    learn = Learner(
        nn.Linear(1, 2), two_items(), loss, device="cpu", cbs=[MixUp(1.0), seen := Batches()]
    )
    learn.fit(1)
    (x,), (y,), pred = seen.seen[0]
    share = float(x[1, 0])
    assert float(x[0, 0]) == pytest.approx(1 - share)
    assert 0.5 <= share < 1
    expected = share * cross_entropy(pred, y) + (1 - share) * cross_entropy(pred, 1 - y)
    torch.testing.assert_close(learn.recorder.losses[0], expected.detach())
    assert learn.recorder.rows[0]["train/half"] == pytest.approx(expected.item() / 2)


def test_inputs_of_any_nesting_and_shape_are_mixed_with_the_same_partner() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

        def forward(self, image: Tensor, extra: Tensor) -> Tensor:
            out: Tensor = self.head(torch.stack([image.mean(dim=(1, 2)), extra], dim=1))
            return out

    ramp = torch.arange(4.0)
    batch = {
        "image": ramp.view(4, 1, 1).expand(4, 3, 3),
        "extra": 10 * ramp,
        "label": torch.tensor([0, 1, 0, 1]),
    }
    learn = Learner(
        Model(),
        Lists([batch], None),
        cross_entropy,
        device="cpu",
        cbs=[MixUp(1.0), seen := Batches()],
    )
    learn.fit(1)
    mixed = seen.seen[0][0][0]
    torch.testing.assert_close(mixed["extra"], 10 * mixed["image"][:, 0, 0])
    assert not torch.equal(mixed["extra"], batch["extra"])


def test_labels_of_pixels_are_mixed_by_item() -> None:
    x, y = torch.randn(4, 3, 5, 5), torch.randint(0, 2, (4, 5, 5))
    learn = Learner(
        nn.Conv2d(3, 2, 1),
        Lists([(x, y)], None),
        nn.CrossEntropyLoss(),
        device="cpu",
        cbs=[MixUp()],
    )
    learn.fit(1)
    assert learn.recorder.losses.shape == (1,)


def test_without_labels_the_mixture_is_its_own_target() -> None:
    learn = Learner(
        nn.Linear(1, 1), Lists([torch.randn(4, 1)], None), nn.functional.mse_loss, device="cpu"
    )
    learn.fit(1, cbs=[MixUp(1.0), seen := Batches()])
    (x,), y, pred = seen.seen[0]
    assert y == ()
    torch.testing.assert_close(learn.recorder.losses[0], nn.functional.mse_loss(pred, x).detach())


def test_integer_inputs_are_refused() -> None:
    batch = (torch.tensor([[1, 2]]), torch.tensor([0]))
    learn = Learner(
        nn.Embedding(3, 3), Lists([batch], None), cross_entropy, device="cpu", cbs=[MixUp()]
    )
    with pytest.raises(TypeError, match=r"MixUp needs floating-point inputs but got torch\.int64"):
        learn.fit(1)


@pytest.mark.parametrize("event", [None, Event.BEFORE_FIT, Event.AFTER_PRED, Event.AFTER_TRAIN])
def test_the_learner_gets_its_loss_back_unchanged(event: Event | None) -> None:
    loss_func = nn.CrossEntropyLoss()
    learn = classifier(loss_func, cbs=(MixUp(),))
    if event is None:
        learn.fit(1)
    else:
        learn.add_cb(RaiseAt(event, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            learn.fit(1)
    assert learn.loss_func is loss_func
    assert loss_func.reduction == "mean"


@pytest.mark.parametrize(
    ("loss_func", "reduction"),
    [
        (nn.CrossEntropyLoss(), "mean"),
        (nn.MSELoss(reduction="sum"), "sum"),
        (cross_entropy, "mean"),
        (partial(cross_entropy, reduction="none"), "none"),
        (lambda pred, target: pred.mean(), None),
        (nn.Linear(1, 1), None),
    ],
)
def test_the_reduction_is_found(loss_func: Any, reduction: str | None) -> None:
    assert reduction_of(loss_func) == reduction


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* must be positive"):
        MixUp(alpha)
