"""Distinguishes permanent MLflow errors from temporary errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests import HTTPError

from nntrain.integrations.tracker import Refused


@contextmanager
def refusals() -> Iterator[None]:
    """Context manager that converts permanent MLflow errors to `Refused`."""
    try:
        yield
    except MlflowException as err:
        if not _is_final(err):
            raise
        raise Refused(gist(err)) from err
    except HTTPError as err:  # raised by file uploads
        if err.response is None or err.response.status_code not in (400, 413):
            raise
        raise Refused(gist(err)) from err
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as err:
        raise Refused(f"a file and a folder have the same name: {err}") from err


def _is_final(err: MlflowException) -> bool:
    """Returns whether the request itself was invalid.

    MLflow also reports a lost database connection as a bad request; its message then contains a
    link to SQLAlchemy's documentation.
    """
    is_of_database = "sqlalche.me" in str(err)
    return err.error_code == "INVALID_PARAMETER_VALUE" or (
        err.error_code == "BAD_REQUEST" and not is_of_database
    )


def gist(err: Exception) -> str:
    """Returns the first 300 characters of an error message, on one line."""
    text = " ".join(str(err).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
