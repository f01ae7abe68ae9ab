import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch import nn

from nntrain import Learner
from nntrain.data import DataLoaders, TensorLoader, fashion_mnist, hf

PIXELS = {
    "train": np.arange(12 * 28 * 28, dtype=np.uint32).reshape(12, 28, 28) % 256,
    "test": np.full((5, 28, 28), 51),
}


def dataset_dict(**splits: np.ndarray[Any, Any]) -> datasets.DatasetDict:
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)}
    )
    made = {}
    for name, pixels in splits.items():
        rows = {
            "image": list(pixels.astype(np.uint8)),
            "label": [i % 10 for i in range(len(pixels))],
        }
        made[name] = datasets.Dataset.from_dict(rows, features=features)
    return datasets.DatasetDict(made)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    dataset_dict(**PIXELS).save_to_disk(tmp_path / "fashion")
    return str(tmp_path / "fashion")


def test_fashion_mnist_is_read_from_a_folder_and_standardized(
    saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hf, "_ROWS", 5)
    dls = fashion_mnist(saved, batch_size=4)
    assert isinstance(dls.train, TensorLoader)
    assert isinstance(dls.valid, TensorLoader)
    images, labels = dls.train.tensors
    expected = (
        torch.from_numpy(PIXELS["train"].astype(np.float32)).unsqueeze(1) / 255 - 0.2860
    ) / 0.3530
    torch.testing.assert_close(images, expected)
    assert labels.tolist() == [i % 10 for i in range(12)]
    assert dls.valid.tensors[0].unique().tolist() == [pytest.approx((0.2 - 0.2860) / 0.3530)]
    assert [len(yb) for _, yb in dls.valid] == [4, 1]


def test_flat_images_are_rows_of_pixels(saved: str) -> None:
    flat, square = fashion_mnist(saved, flat=True), fashion_mnist(saved)
    assert isinstance(flat.train, TensorLoader)
    assert isinstance(square.train, TensorLoader)
    assert torch.equal(flat.train.tensors[0], square.train.tensors[0].view(12, 784))


def test_a_missing_library_gives_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError) as caught:
        fashion_mnist("anywhere")
    assert (
        str(caught.value) == "fashion_mnist needs the datasets library: pip install 'nntrain[hf]'."
    )


def test_a_missing_dataset_is_named() -> None:
    with pytest.raises(
        ValueError,
        match=r"The dataset '\./nosuch' could not be loaded .*: pass a folder written by",
    ):
        fashion_mnist("./nosuch")


def test_a_missing_split_of_fashion_mnist_is_an_error_that_lists_the_splits(tmp_path: Path) -> None:
    dataset_dict(train=PIXELS["train"]).save_to_disk(tmp_path / "half")
    with pytest.raises(ValueError, match=r"half' has no split 'test': its splits are train\."):
        fashion_mnist(str(tmp_path / "half"))


def test_a_dataset_dict_gives_batches_of_images_and_labels() -> None:
    dls = DataLoaders.from_dataset_dict(dataset_dict(**PIXELS), batch_size=5, shuffle=False)
    xb, yb = next(iter(dls.train))
    torch.testing.assert_close(
        xb, torch.from_numpy(PIXELS["train"][:5].astype(np.float32)).unsqueeze(1) / 255
    )
    assert yb.tolist() == [0, 1, 2, 3, 4]
    assert dls.valid is not None
    assert [len(yb) for _, yb in dls.valid] == [5]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test", "validation"), 2),
        (("train", "test"), 1),
        (("train",), None),
        (("train", "x"), None),
    ],
)
def test_validation_takes_the_first_usual_split(
    names: tuple[str, ...], expected: int | None
) -> None:
    dls = DataLoaders.from_dataset_dict(
        {name: [{"image": np.zeros((1, 1)), "label": i}] for i, name in enumerate(names)}
    )
    assert (None if dls.valid is None else next(iter(dls.valid))[1].item()) == expected


def test_splits_columns_and_labels_are_chosen_by_name() -> None:
    rows = [{"img": np.ones((2, 2)), "kind": 1}]
    options: dict[str, Any] = {"train_split": "a", "valid_split": "b", "image_key": "img"}
    dls = DataLoaders.from_dataset_dict({"a": rows, "b": rows}, label_key="kind", **options)
    assert dls.valid is not None
    assert [len(batch) for batch in (*dls.train, *dls.valid)] == [2, 2]
    unlabelled = DataLoaders.from_dataset_dict({"a": rows, "b": rows}, label_key=None, **options)
    assert [len(batch) for batch in unlabelled.train] == [1]


@pytest.mark.parametrize("options", [{"train_split": "nosuch"}, {"valid_split": "nosuch"}])
def test_a_missing_split_is_an_error_that_lists_the_splits(options: dict[str, str]) -> None:
    with pytest.raises(
        ValueError, match=r"The dataset has no split 'nosuch': its splits are train, test\."
    ):
        DataLoaders.from_dataset_dict(dataset_dict(**PIXELS), **options)


@pytest.mark.parametrize("style", [None, "torch", "numpy"])
def test_a_model_trains_on_a_dataset_dict_in_any_format(style: str | None) -> None:
    dls = DataLoaders.from_dataset_dict(dataset_dict(**PIXELS).with_format(style), batch_size=6)
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    result = Learner(model, dls, nn.functional.cross_entropy, device="cpu").fit(2)
    assert result.train_iter == 4
    assert result.metrics["valid/loss"] > 0
