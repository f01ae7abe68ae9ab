"""Converts images to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def image_tensor(image: Any) -> Tensor:
    """Converts an image to a float tensor `(channels, height, width)` with values from 0 to 1.

    Args:
        image: a PIL image of mode 1, L or RGB; an array or nested list `(height, width)` or
            `(height, width, channels)`; or a tensor `(height, width)` or `(channels, height,
            width)`. Integers are divided by 255; floats are unchanged.

    Raises:
        ValueError: if the shape or the mode is not supported.
    """
    tensor = image if isinstance(image, Tensor) else _from_array(image)
    if tensor.dim() == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 3:
        raise ValueError(
            "An image must have two or three dimensions, "
            f"but this image has the shape {tuple(tensor.shape)}."
        )
    counted = not tensor.is_floating_point() and tensor.dtype is not torch.bool
    return tensor.float() / 255 if counted else tensor.float()


def _from_array(image: Any) -> Tensor:
    mode = getattr(image, "mode", "L")
    if mode not in ("1", "L", "RGB"):
        raise ValueError(
            f"An image must have the mode 1, L or RGB, but this image has the mode {mode!r}: "
            "convert it with image.convert('RGB')."
        )
    tensor = torch.from_numpy(np.array(image))
    return tensor.permute(2, 0, 1) if tensor.dim() == 3 else tensor


def stack_images(images: Sequence[Any]) -> Tensor:
    """Stacks images into one tensor `(images, channels, height, width)` with values from 0 to 1.

    `image_tensor` converts each image.

    Raises:
        ValueError: if the shapes of the images differ.
    """
    tensors = [image_tensor(image) for image in images]
    shapes = list(dict.fromkeys(str(tuple(tensor.shape)) for tensor in tensors))
    if len(shapes) > 1:
        raise ValueError(
            f"The images of a batch must have the same shape, but they have {', '.join(shapes)}: "
            "resize the images and convert them to the same mode."
        )
    return torch.stack(tensors)


@dataclass(frozen=True)
class ImageCollate:
    """Collate function that turns dataset rows (mappings) into a batch `(images, labels)`.

    Images are converted to a tensor `(batch, channels, height, width)` with values from 0 to 1.
    Then `mean` is subtracted, and the result is divided by `std`. Labels are converted to an int64
    or float32 tensor `(batch,)`. If `label_key` is `None`, the batch is `(images,)`.

    Raises:
        ValueError: if a column is missing; the message lists the existing columns.
    """

    image_key: str = "image"
    label_key: str | None = "label"
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
        """Returns a batch built from dataset rows."""
        images = (stack_images(_column(rows, self.image_key)) - self.mean) / self.std
        if self.label_key is None:
            return (images,)
        return images, _labels(_column(rows, self.label_key), self.label_key)


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    if key not in rows[0]:
        raise ValueError(
            f"The dataset has no column {key!r}: its columns are {', '.join(rows[0])}."
        )
    return [row[key] for row in rows]


def _labels(values: list[Any], key: str) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"The labels in column {key!r} must be numbers, but they are of type "
            f"{type(values[0]).__name__}: convert the labels to numbers."
        )
    labels = torch.from_numpy(array)
    return labels.float() if labels.is_floating_point() else labels.long()
