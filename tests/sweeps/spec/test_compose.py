"""The composer returns the same configurations as Hydra."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from nntrain.sweeps import register
from nntrain.sweeps.spec.compose import Composer

register()


@pytest.fixture
def master() -> Iterator[DictConfig]:
    """Returns the configuration of `nntrain.run`, including the `hydra` node."""
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        yield compose("config", ["tracker=none"], return_hydra_config=True)


@pytest.fixture
def loader(master: DictConfig) -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def plain(config: DictConfig) -> dict[str, object]:
    """Returns the configuration as plain values, without `override_dirname`, which is unused."""
    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    del found["hydra"]["job"]["override_dirname"]
    return {str(key): value for key, value in found.items()}


TRIALS = [
    ["lr=0.1", "model.hidden=32"],
    ["lr=0.2", "model.hidden=[64,32]"],
    ["lr=0.3", "model=cnn"],
    ["model=mlp", "model.dropout=0.5"],
    ["optimizer=sgd", "optimizer.momentum=0.9", "lr=1"],
    ["+optimizer.amsgrad=true", "lr=0.1"],
    ["+optimizer.amsgrad=false", "lr=0.2"],
    ["++seed=3", "n_epoch=4"],
    ["callbacks=[default,early_stopping]"],
    ["~callbacks.progress", "lr=0.5"],
    ["device='cpu'", "objective=[valid/loss,valid/accuracy]"],
    ["resume=null", "seed=7"],
    ["lr=${oc.env:HOME}"],
]


@pytest.mark.parametrize(
    "fixed", [[], ["n_epoch=3", "optimizer=adam"]], ids=["nothing fixed", "fixed"]
)
def test_each_configuration_is_the_one_that_hydra_composes(
    master: DictConfig, loader: ConfigLoader, fixed: Sequence[str]
) -> None:
    composer = Composer(loader, master, fixed)
    for overrides in [*TRIALS, *TRIALS[:3]]:
        if "~callbacks.progress" in overrides or not fixed or "optimizer=sgd" not in overrides:
            expected = loader.load_sweep_config(master, [*fixed, *overrides])
            assert plain(composer.compose(overrides)) == plain(expected), overrides


def test_a_job_that_changes_its_configuration_does_not_change_the_next(
    master: DictConfig, loader: ConfigLoader
) -> None:
    composer = Composer(loader, master, [])
    first = composer.compose(["lr=0.1"])
    OmegaConf.update(first, "model.hidden", 1)
    assert composer.compose(["lr=0.1"]).model.hidden != 1


@pytest.mark.parametrize("overrides", [["lrr=1"], ["lr=text"], ["model.hiden=3"]])
def test_an_invalid_override_raises_the_error_of_hydra(
    master: DictConfig, loader: ConfigLoader, overrides: list[str]
) -> None:
    with pytest.raises(HydraException) as expected:
        loader.load_sweep_config(master, overrides)
    with pytest.raises(HydraException) as found:
        Composer(loader, master, []).compose(overrides)
    assert str(found.value) == str(expected.value)


def test_a_folder_can_be_named_after_the_overrides(tmp_path: Path) -> None:
    with initialize_config_module("nntrain.conf", version_base="1.3"):
        master = compose(
            "config", ["hydra.sweep.dir=x/${hydra.job.override_dirname}"], return_hydra_config=True
        )
        loader = GlobalHydra.instance().config_loader()
        assert (
            Composer(loader, master, []).compose(["lr=0.1"]).hydra.job.override_dirname == "lr=0.1"
        )
