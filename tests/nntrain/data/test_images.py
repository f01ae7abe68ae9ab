from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nntrain.data import ImageCollate
from nntrain.data.images import image_tensor, stack_images

GRAY = np.array([[0, 51, 255]], dtype=np.uint8)
COLOR = np.stack([GRAY, GRAY * 0, GRAY * 0 + 255], axis=-1)
GRAY_TENSOR = torch.tensor([[[0.0, 0.2, 1.0]]])
COLOR_TENSOR = torch.tensor([[[0.0, 0.2, 1.0]], [[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]]])


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        pytest.param(Image.fromarray(GRAY), GRAY_TENSOR, id="PIL, gray"),
        pytest.param(Image.fromarray(COLOR), COLOR_TENSOR, id="PIL, color"),
        pytest.param(
            Image.fromarray(GRAY > 100),
            torch.tensor([[[0.0, 0.0, 1.0]]]),
            id="PIL, black and white",
        ),
        pytest.param(GRAY, GRAY_TENSOR, id="array, gray"),
        pytest.param(COLOR, COLOR_TENSOR, id="array, channels last"),
        pytest.param(GRAY.tolist(), GRAY_TENSOR, id="nested list"),
        pytest.param(GRAY / 255, GRAY_TENSOR, id="array of floats"),
        pytest.param(torch.from_numpy(GRAY), GRAY_TENSOR, id="tensor, gray"),
        pytest.param(
            torch.from_numpy(COLOR).permute(2, 0, 1), COLOR_TENSOR, id="tensor, channels first"
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
            Image.fromarray(GRAY).convert("P"),
            r"An image must have the mode 1, L or RGB, but this image has the mode 'P': convert it",
        ),
        (
            Image.fromarray(COLOR).convert("RGBA"),
            r"An image must have the mode .* but this image has the mode 'RGBA'",
        ),
        (
            np.zeros(3),
            r"An image must have two or three dimensions, but this image has the shape \(3,\)",
        ),
    ],
)
def test_an_unsupported_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_tensor(image)


def test_images_of_different_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"the same shape, but they have \(1, 1, 3\), \(1, 2, 2\)"):
        stack_images([GRAY, np.zeros((2, 2))])


def test_rows_become_a_batch_of_images_and_labels() -> None:
    rows = [{"image": Image.fromarray(GRAY), "label": 3}, {"image": GRAY, "label": 1}]
    images, labels = ImageCollate()(rows)
    torch.testing.assert_close(images, torch.stack([GRAY_TENSOR, GRAY_TENSOR]))
    assert labels.dtype is torch.int64
    assert labels.tolist() == [3, 1]


def test_images_are_standardized() -> None:
    (images,) = ImageCollate(label_key=None, mean=0.2, std=0.5)([{"image": GRAY}])
    torch.testing.assert_close(images[0], (GRAY_TENSOR - 0.2) / 0.5)


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
    _, batch = ImageCollate(label_key="y")([{"image": GRAY, "y": label} for label in labels])
    assert batch.dtype is dtype
    assert batch.tolist() == expected


def test_a_missing_column_is_an_error_that_lists_the_columns() -> None:
    with pytest.raises(
        ValueError, match=r"The dataset has no column 'image': its columns are img, label\."
    ):
        ImageCollate()([{"img": GRAY, "label": 0}])


def test_labels_that_are_words_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match=r"The labels in column 'label' must be numbers, but they are of type str: convert",
    ):
        ImageCollate()([{"image": GRAY, "label": "coat"}])
