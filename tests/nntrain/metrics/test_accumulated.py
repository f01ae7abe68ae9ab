import pytest
import sklearn.metrics as skm
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from nntrain import Callback, Learner
from nntrain.metrics import AccumMetric, mae, skm_to_fastai
from nntrain.metrics.accumulated import Activation
from tests.common.metrics import a_batch, data_of, mean_of, seen
from tests.common.toys import Lists, batches, toy_learner


def test_an_argmax_over_axis_0_is_taken() -> None:
    metric = AccumMetric(
        lambda pred, target: pred.double().mean(), dim_argmax=0, flatten=False, name="m"
    )
    metric.accumulate(a_batch(torch.tensor([[0.0, 3.0], [1.0, 2.0]]), torch.zeros(2)))
    assert metric.value == torch.tensor([1, 0]).double().mean()


def test_a_threshold_of_0_is_applied() -> None:
    metric = AccumMetric(mean_of, thresh=0.0)
    metric.accumulate(a_batch(torch.tensor([-1.0, 0.0, 2.0, -3.0]), torch.zeros(4)))
    assert metric.value == 0.5


def test_bfloat16_predictions_reach_numpy_functions() -> None:
    pred, target = data_of("values")
    metric = skm_to_fastai(skm.mean_absolute_error, is_class=False)
    metric.accumulate(a_batch(pred.bfloat16(), target))
    assert metric.value == pytest.approx(skm.mean_absolute_error(target, pred.bfloat16().float()))


def test_predictions_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="'f1_score' got 132 predictions for 44 labels: set dim_argmax or flatten=False",
    ):
        seen(*data_of("classes"), skm_to_fastai(skm.f1_score, is_class=False))


def kept_batches(metric: AccumMetric) -> int:
    return len(metric.state_dict()["batches"])


def test_predictions_are_kept_for_their_part_of_the_epoch_only() -> None:
    counts: list[tuple[str, int]] = []

    class Count(Callback):
        order = 60

        def after_batch(self, learn: Learner) -> None:
            counts.append(("train" if learn.training else "valid", kept_batches(metric)))

        def after_validate(self, learn: Learner) -> None:
            counts.append(("end", kept_batches(metric)))

    metric = AccumMetric(mae)
    x = torch.randn(6, 1)
    toy_learner(Lists(batches(x, x, 3), batches(x, x, 2)), metrics=[metric], cbs=[Count()]).fit(2)
    assert (
        counts
        == [("train", 0), ("train", 0), ("valid", 1), ("valid", 2), ("valid", 3), ("end", 0)] * 2
    )


def test_predictions_from_a_checkpoint_join_those_on_the_device() -> None:
    seen_by_func: list[Tensor] = []
    metric = AccumMetric(lambda pred, target: seen_by_func.extend((pred, target)) or 0.0, name="m")
    with FakeTensorMode():
        metric.load_state_dict({"batches": [[torch.zeros(2), torch.zeros(2)]]})
        metric.accumulate(a_batch(torch.zeros(3, device="cuda"), torch.zeros(3, device="cuda")))
        assert metric.value == 0.0
    assert [(kept.device.type, kept.shape) for kept in seen_by_func] == [("cuda", (5,))] * 2


ONE_CLASS = (
    r"'r2_score' .* predictions of shape \(4, 1\) have only one class .*: "
    r"set is_class=False \(skm_to_fastai\) or dim_argmax=None"
)


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_classes_are_not_chosen_from_a_single_column(activation: Activation | None) -> None:
    metric = skm_to_fastai(skm.r2_score, activation=activation)
    with pytest.raises(ValueError, match=ONE_CLASS):
        metric.accumulate(a_batch(torch.ones(4, 1), torch.ones(4, 1)))


def test_a_regression_with_one_column_is_scored_without_classes() -> None:
    pred, target = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    metric = skm_to_fastai(skm.r2_score, is_class=False)
    metric.accumulate(a_batch(pred, target))
    assert metric.value == pytest.approx(1 - 1 / 2)
