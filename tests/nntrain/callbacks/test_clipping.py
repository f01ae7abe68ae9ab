"""Training with clipped gradients gives the same weights as fastai's callback."""

import pytest
import torch

from nntrain.callbacks import GradientClip
from tests.common.reference import reference
from tests.common.scripted import CourseSpy
from tests.common.toys import toy_learner

FASTAI = reference("callbacks")["clipping"]


@pytest.mark.parametrize("name", FASTAI)
def test_every_batch_leaves_fastais_weights(name: str) -> None:
    max_norm, norm_type = map(float, name.split("/"))
    toy_learner(cbs=[GradientClip(max_norm, norm_type), spy := CourseSpy()]).fit(2)
    torch.testing.assert_close(
        torch.stack(spy.weights), torch.tensor(FASTAI[name]["weights"]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("max_norm", [0.0, -1.0, float("nan")])
def test_the_norm_must_be_positive(max_norm: float) -> None:
    with pytest.raises(ValueError, match=r"max_norm=.* must be positive"):
        GradientClip(max_norm)
