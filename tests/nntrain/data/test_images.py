from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nntrain.data import ImageCollate
from nntrain.data.images import image_tensor, stack_images

GREY = np.array([[0, 51, 255]], dtype=np.uint8)
COLOUR = np.stack([GREY, GREY * 0, GREY * 0 + 255], axis=-1)
GREY_TENSOR = torch.tensor([[[0.0, 0.2, 1.0]]])
COLOUR_TENSOR = torch.tensor([[[0.0, 0.2, 1.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(GREY), GREY_TENSOR, id="PIL, grey"),
        pytest.param(Image.fromarray(COLOUR), COLOUR_TENSOR, id="PIL, color"),
        pytest.param(
            Image.fromarray(GREY > 100),
            torch.tensor([[[0.0, 0.0, 1.0]]]),
            id="PIL, black and white",
        ),
        pytest.param(GREY, GREY_TENSOR, id="array, grey"),
        pytest.param(COLOUR, COLOUR_TENSOR, id="array, channels last"),
        pytest.param(GREY.tolist(), GREY_TENSOR, id="nested list"),
        pytest.param(GREY / 255, GREY_TENSOR, id="array of floats"),
        pytest.param(torch.from_numpy(GREY), GREY_TENSOR, id="tensor, grey"),
        pytest.param(
            torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR_TENSOR, id="tensor, channels first"
        ),
    ],
)
def test_images_of_any_kind_become_floats_from_0_to_1_with_channels_first(
    image: Any, expected: torch.Tensor
) -> None:
    tensor = image_tensor(image)
    assert tensor.dtype is torch.float32
    torch.testing.assert_close(tensor, expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            Image.fromarray(GREY).convert("P"),
            r"An image must have the mode 1, L or RGB but has 'P': convert it",
        ),
        (Image.fromarray(COLOUR).convert("RGBA"), r"An image must have the mode .* but has 'RGBA'"),
        (np.zeros(3), r"An image must have two or three dimensions but has the shape \(3,\)"),
    ],
)
def test_an_unsupported_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_tensor(image)


def test_images_of_different_sizes_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"the same shape but have \(1, 1, 3\), \(1, 2, 2\): resize them"
    ):
        stack_images([GREY, np.zeros((2, 2))])


def test_rows_become_a_batch_of_images_and_labels() -> None:
    rows = [{"image": Image.fromarray(GREY), "label": 3}, {"image": GREY, "label": 1}]
    images, labels = ImageCollate()(rows)
    torch.testing.assert_close(images, torch.stack([GREY_TENSOR, GREY_TENSOR]))
    assert labels.dtype is torch.int64
    assert labels.tolist() == [3, 1]


def test_images_are_standardized() -> None:
    (images,) = ImageCollate(label_key=None, mean=0.2, std=0.5)([{"image": GREY}])
    torch.testing.assert_close(images[0], (GREY_TENSOR - 0.2) / 0.5)


@pytest.mark.parametrize(
    ("labels", "dtype", "expected"),
    [
        ([0.5, 1.0], torch.float32, [0.5, 1.0]),
        ([np.float64(0.5), np.float64(1)], torch.float32, [0.5, 1.0]),
        ([True, False], torch.int64, [1, 0]),
        ([torch.tensor(2), torch.tensor(1)], torch.int64, [2, 1]),
        ([np.array([1, 0]), np.array([0, 1])], torch.int64, [[1, 0], [0, 1]]),
    ],
)
def test_labels_become_whole_or_single_precision_numbers(
    labels: list[Any], dtype: torch.dtype, expected: list[Any]
) -> None:
    _, batch = ImageCollate(label_key="y")([{"image": GREY, "y": label} for label in labels])
    assert batch.dtype is dtype
    assert batch.tolist() == expected


def test_a_missing_column_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(
        ValueError, match=r"There is no column 'image': the dataset has img, label\."
    ):
        ImageCollate()([{"img": GREY, "label": 0}])


def test_labels_that_are_words_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"The labels in column 'label' must be numbers but are of type str: convert them",
    ):
        ImageCollate()([{"image": GREY, "label": "coat"}])
