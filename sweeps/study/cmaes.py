"""CMA-ES without running code that a study contains."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from nntrain.sweeps.errors import SweepError

if TYPE_CHECKING:
    from optuna import Study

_OPTIMIZERS = ("CMA", "CMAwM", "SepCMA")

_NUMPY = (
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *(
        (f"{module}.multiarray", name)
        for module in ("numpy._core", "numpy.core")
        for name in ("_reconstruct", "scalar")
    ),
    *((f"{module}.numeric", "_frombuffer") for module in ("numpy._core", "numpy.core")),
)

_ERRORS = (
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""Exceptions that are raised for a damaged pickle."""


class Cmaes(CmaEsSampler):
    """Optuna's `CmaEsSampler`, which creates nothing but arrays and optimizers from a study.

    Optuna stores the optimizer in the study as a pickle, which could otherwise run any code.
    """

    def check(self, study: Study) -> None:
        """Checks that the optimizer in a study can be read.

        Raises:
            SweepError: if the study contains something else.
        """
        self._restore_optimizer(study.get_trials(deepcopy=False))

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            name = self._attr_key_optimizer
            attrs = {key: one for key, one in trial.system_attrs.items() if key.startswith(name)}
            if attrs:
                return self._restored(trial.number, attrs)
        return None

    def _restored(self, number: int, attrs: dict[str, str]) -> Any:
        try:
            content = bytes.fromhex(self._concat_optimizer_attrs(attrs))
            found = _Unpickler(io.BytesIO(content)).load()
            if type(found).__name__ not in _OPTIMIZERS:
                raise TypeError(f"it is of type {type(found).__name__}")
        except _ERRORS as err:
            raise SweepError(
                f"The state of CMA-ES in trial {number} of the study is not trusted or is damaged "
                f"({err}): choose another hydra.sweeper.study_name to start a new study."
            ) from err
        return found


class _Unpickler(pickle.Unpickler):
    """Loads optimizers and arrays only."""

    def find_class(self, module: str, name: str) -> Any:
        is_optimizer = module.split(".")[0] == "cmaes" and name in _OPTIMIZERS
        if not is_optimizer and (module, name) not in _NUMPY:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)
