"""MLflow: which of its errors are final."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from requests import HTTPError

from nntrain.integrations.tracker import Refused


@contextmanager
def refusals() -> Iterator[None]:
    """Turns an error for a request that MLflow will never accept into `Refused`."""
    try:
        yield
    except MlflowException as err:
        if not _is_final(err):
            raise
        raise Refused(gist(err)) from err
    except HTTPError as err:  # a server's answer to an upload
        if err.response is None or err.response.status_code not in (400, 413):
            raise
        raise Refused(gist(err)) from err
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as err:
        raise Refused(f"a file has the name of a folder: {err}") from err


def _is_final(err: MlflowException) -> bool:
    """Whether the request itself was bad.

    A store reports a lost connection to its database as a bad request too, with a message of
    SQLAlchemy that ends in a link.
    """
    is_of_database = "sqlalche.me" in str(err)
    return err.error_code == "INVALID_PARAMETER_VALUE" or (
        err.error_code == "BAD_REQUEST" and not is_of_database
    )


def gist(err: Exception) -> str:
    """The first 300 characters of a message, in one line."""
    text = " ".join(str(err).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
