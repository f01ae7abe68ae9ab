"""Stores and registers MLflow models. This module imports torch."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import mlflow
import mlflow.pytorch
from mlflow.entities import LoggedModel, LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient
from torch import nn

from nntrain.checkpoint import read_checkpoint
from nntrain.config.instantiate import instantiate
from nntrain.integrations.mlflow import URI_VARIABLE, MLflowTracker
from nntrain.integrations.mlflow.errors import gist, refusals
from nntrain.integrations.tracker import ModelFile, Refused

_URI_OF_THE_PROCESS = threading.Lock()


def log_model(
    store: MlflowClient,
    experiment_id: str,
    run_id: str,
    model: ModelFile,
    settings: MLflowTracker,
) -> None:
    """Stores a model as an MLflow model of the run, and registers it if the settings request it.

    Raises:
        Refused: if the model cannot be built from its configuration and weights.
    """
    module = _module(model)
    with refusals():
        logged = _logged(store, experiment_id, run_id, model)
        if logged.status != "READY":
            _upload(store, run_id, logged.model_id, module)
        if settings.registered_model_name:
            name, source = settings.registered_model_name, f"models:/{logged.model_id}"
            version = _version(store, run_id, name, source) or _create_version(
                store, run_id, name, source, settings.uri
            )
            _set_aliases(store, version, model.aliases)


def _module(model: ModelFile) -> nn.Module:
    """Builds the module from the model's configuration and loads its weights.

    Raises:
        Refused: if the model has no configuration, the configuration is invalid or not trusted, or
            the weights do not fit the model.
    """
    if model.node is None:
        raise Refused(f"model {model.name} has no configuration, so only its weights are stored")
    try:
        module: nn.Module = instantiate(model.node, "model", model.trusted_targets)
        module.load_state_dict(read_checkpoint(model.path)["model"])
    except Exception as err:
        raise Refused(
            f"model {model.name} cannot be built from its configuration: {gist(err)}"
        ) from err
    return module


def _logged(store: MlflowClient, experiment_id: str, run_id: str, model: ModelFile) -> LoggedModel:
    """Returns the run's MLflow model for these weights; creates the model if needed."""
    digest = hashlib.sha256(model.path.read_bytes()).hexdigest()
    query = f"source_run_id = '{run_id}' AND tags.`nntrain.sha256` = '{digest}'"
    if found := store.search_logged_models([experiment_id], filter_string=query):
        return found[0]
    return store.create_logged_model(
        experiment_id,
        re.sub(r"[^\w\-]+", "_", PurePosixPath(model.name).stem),
        source_run_id=run_id,
        tags={"nntrain.sha256": digest},
        model_type="pytorch",
    )


def _upload(store: MlflowClient, run_id: str, model_id: str, module: nn.Module) -> None:
    needs = [
        *mlflow.pytorch.get_default_pip_requirements(),
        f"nntrain=={importlib.metadata.version('nntrain')}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        mlflow.pytorch.save_model(
            module,
            path,
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            pip_requirements=needs,
            serialization_format="pickle",
        )
        store.log_model_artifacts(model_id, str(path))
    store.log_outputs(run_id, [LoggedModelOutput(model_id, 0)])
    store.finalize_logged_model(model_id, "READY")


def _version(store: MlflowClient, run_id: str, name: str, source: str) -> ModelVersion | None:
    """Returns the version of the registered model that was created from this MLflow model."""
    versions = store.search_model_versions(f"run_id = '{run_id}'")
    return next((one for one in versions if (one.name, one.source) == (name, source)), None)


def _create_version(
    store: MlflowClient, run_id: str, name: str, source: str, uri: str
) -> ModelVersion:
    try:
        store.create_registered_model(name)
    except MlflowException as err:
        if err.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with _uri_of_the_process(uri):
        return store.create_model_version(
            name,
            source,
            run_id,
            model_id=source.removeprefix("models:/"),
            await_creation_for=0,
        )


def _set_aliases(store: MlflowClient, version: ModelVersion, aliases: Sequence[str]) -> None:
    for alias in aliases:
        if alias != "latest":  # MLflow manages this alias itself
            store.set_registered_model_alias(version.name, alias, version.version)


@contextmanager
def _uri_of_the_process(uri: str) -> Iterator[None]:
    """Temporarily sets MLflow's global tracking URI.

    The model registry looks for logged models at the global URI and ignores the client's URI. On
    exit, the previous URI and environment variable are restored.
    """
    with _URI_OF_THE_PROCESS:
        before, in_environment = mlflow.get_tracking_uri(), os.environ.get(URI_VARIABLE)
        mlflow.set_tracking_uri(uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before)
            os.environ.pop(URI_VARIABLE, None)
            if in_environment is not None:
                os.environ[URI_VARIABLE] = in_environment
