"""Public packages on the generated problems, each called as its page says, with its own defaults.

They are called and never copied. A package that is not installed is left out. None of them raises flags.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from benchmarks._problems import Problem

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Opponent:
    """A function of another package.

    Attributes
    ----------
    package, licence : str
        As on the package index.
    call : str
        What is called, for the table.
    takes : function of a problem
        Whether the function can be asked.
    value : function of T (N, D) and Y
        I(T;Y) in nats; Y is (N, k) for pairs and (N,) for classes.
    """

    package: str
    licence: str
    call: str
    takes: Callable[[Problem], bool]
    value: Callable[[Array, Array], float]

    @property
    def named(self) -> str:
        """Package, version and licence."""
        return f"{self.package} {importlib.metadata.version(self.package)} ({self.licence}), `{self.call}`"

    def nats(self, problem: Problem) -> float:
        """Its value from the same samples; nan where it raises."""
        np.random.seed(0)  # noqa: NPY002 - the packages draw from numpy's global state
        torch.manual_seed(0)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                return float(self.value(problem.t.double().numpy(), problem.y.numpy()))
        except Exception:  # whatever another package raises: it has no value here
            return math.nan


def _pairs(problem: Problem) -> bool:
    return problem.kind == "pairs"


def _one_unit(problem: Problem) -> bool:
    return problem.units == 1 and problem.settings.get("k", 1) == 1


def _scikit_learn(t: Array, y: Array) -> float:
    from sklearn.feature_selection import mutual_info_classif, mutual_info_regression

    ask = mutual_info_classif if y.ndim == 1 else mutual_info_regression
    return float(ask(t, y.ravel(), random_state=0)[0])


def _ennemi(t: Array, y: Array) -> float:
    import ennemi

    return float(ennemi.estimate_mi(y.ravel(), t, discrete_y=y.ndim == 1)[0, 0])


def _npeet_plus(t: Array, y: Array) -> float:
    import npeet_plus

    bits = npeet_plus.micd(t, y[:, None]) if y.ndim == 1 else npeet_plus.mi(t, y)
    return float(bits) * math.log(2)


def _infomeasure(t: Array, y: Array) -> float:
    import infomeasure

    return float(infomeasure.mutual_information(t, y, approach="ksg"))


def _torch_mist(t: Array, y: Array) -> float:
    from torch_mist import estimate_mi

    data = (t.astype(np.float32), y.astype(np.float32))
    return float(estimate_mi(data=data, estimator="smile", verbose=False)[0])


_ALL = (
    Opponent(
        package="scikit-learn", licence="BSD-3", call="mutual_info_*", takes=_one_unit, value=_scikit_learn,
    ),
    Opponent(package="ennemi", licence="MIT", call="estimate_mi", takes=_one_unit, value=_ennemi),
    Opponent(package="npeet-plus", licence="MIT", call="mi, micd", takes=lambda _: True, value=_npeet_plus),
    Opponent(
        package="infomeasure", licence="AGPL-3.0", call="mutual_information(approach='ksg')", takes=_pairs,
        value=_infomeasure,
    ),
    Opponent(
        package="torch-mist", licence="MIT", call="estimate_mi(estimator='smile')", takes=_pairs, value=_torch_mist,
    ),
)  # fmt: skip


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


OPPONENTS = {o.package: o for o in _ALL if _installed(o.package)}
"""Those that are installed, by the names of their packages."""
