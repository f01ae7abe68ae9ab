"""Making tensors of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def image_tensor(image: Any) -> Tensor:
    """An image as a float tensor `(channels, height, width)`, from 0 to 1.

    Args:
        image: a PIL image of mode 1, L or RGB; an array or nested list `(height, width)` or `(height, width, channels)`; or
            a tensor `(height, width)` or `(channels, height, width)`. Integers count from 0 to 255; floats are kept.

    Raises:
        ValueError: if it is none of these.
    """
    tensor = image if isinstance(image, Tensor) else _from_array(image)
    if tensor.dim() == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.dim() != 3:
        raise ValueError(
            f"An image has the shape {tuple(tensor.shape)} but two or three dimensions were expected."
        )
    counted = not tensor.is_floating_point() and tensor.dtype is not torch.bool
    return tensor.float() / 255 if counted else tensor.float()


def _from_array(image: Any) -> Tensor:
    mode = getattr(image, "mode", "L")
    if mode not in ("1", "L", "RGB"):
        raise ValueError(
            f"An image has the mode {mode!r} but L or RGB was expected: convert it with image.convert('RGB')."
        )
    tensor = torch.from_numpy(np.array(image))
    return tensor.permute(2, 0, 1) if tensor.dim() == 3 else tensor


def stack_images(images: Sequence[Any]) -> Tensor:
    """Images of one size as one tensor `(images, channels, height, width)`, from 0 to 1; see `image_tensor`.

    Raises:
        ValueError: if their shapes differ.
    """
    tensors = [image_tensor(image) for image in images]
    shapes = list(dict.fromkeys(str(tuple(tensor.shape)) for tensor in tensors))
    if len(shapes) > 1:
        raise ValueError(
            f"The images of a batch have the shapes {', '.join(shapes)}: bring them to one size and mode first."
        )
    return torch.stack(tensors)


@dataclass(frozen=True)
class ImageCollate:
    """Makes a batch `(images, labels)` of rows that are mappings, or `(images,)` where `label_key` is `None`.

    Images become `(batch, channels, height, width)` from 0 to 1, less `mean`, divided by `std`; labels become `(batch,)`,
    int64 or float32.

    Raises:
        ValueError: if a row has no such column; the message names those there are.
    """

    image_key: str = "image"
    label_key: str | None = "label"
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, ...]:
        """The batch of these rows."""
        images = (stack_images(_column(rows, self.image_key)) - self.mean) / self.std
        if self.label_key is None:
            return (images,)
        return images, _labels(_column(rows, self.label_key), self.label_key)


def _column(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    if key not in rows[0]:
        raise ValueError(f"There is no column {key!r}: the dataset has {', '.join(rows[0])}.")
    return [row[key] for row in rows]


def _labels(values: list[Any], key: str) -> Tensor:
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"The labels in column {key!r} are of type {type(values[0]).__name__}: make numbers of them first."
        )
    labels = torch.from_numpy(array)
    return labels.float() if labels.is_floating_point() else labels.long()
