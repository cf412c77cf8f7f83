"""Recording many networks that are trained as one batched program: one probe pass, one run each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from infoplane.core.records import Layer, Sink, Snapshot
from infoplane.hooks._out.destination import Destination
from infoplane.hooks._pass.capture import Members, State, count_members
from infoplane.hooks._session import Call
from infoplane.hooks.metrics import LayerMetrics, check_name, member_numbers, weight_norms
from infoplane.hooks.recorder import Recorder


class CollectionRecorder(Recorder):
    """Record every member of a collection of networks in one batched probe pass.

    Parameters
    ----------
    model : nn.Module
        With `state`: the module that `torch.func.functional_call` runs (its own parameters do not matter). With
        `member_dim`: a module that computes all members at once.
    probe : as in Recorder
        Shared by the members.
    runs : sequence of paths, or one path with "{member}", optional
        A run for each member, as `"runs/seed-{member:03d}"`.
    state : (parameters, buffers), or function that returns them
        Two dicts with the members along every tensor's first axis, as from `torch.func.stack_module_state`. Dicts
        that are updated in place can be given once; where training makes new ones, give a function, or pass
        `state=` to `snapshot`.
    member_dim : int
        Axis of the members in the captured tensors of a hand-stacked module. `batch_dim` counts the others.
    members : int
        Their number, with `member_dim`.
    member_sinks : function from member to sinks, optional
    parameter_dim : int, or mapping from pattern of parameter names to int
        Axis of the members in the parameters of a hand-stacked module, for `weight_norms`; that of `gradients`, or
        the first, by default.
    **options
        Further arguments of Recorder; not `sinks` and `shard_probe`. `gradients` are GradientMoments with
        `members=`, or `GradientMoments.functional` beside `state`.

    Notes
    -----
    Metrics of `snapshot` that have one number per member are divided among them; a single number goes to all.

    Raises
    ------
    ValueError
        If not exactly one of `state` and `member_dim` is given, or the number of runs is not that of members.
    """

    def __init__(
        self,
        model: nn.Module,
        probe: Any,
        runs: Sequence[str | Path] | str | Path | None = None,
        *,
        state: State | Callable[[], State] | None = None,
        member_dim: int | None = None,
        members: int | None = None,
        member_sinks: Callable[[int], Iterable[Sink]] = lambda member: (),
        parameter_dim: int | Mapping[str, int] | None = None,
        **options: Any,
    ) -> None:
        refused = {"sinks", "shard_probe"} & set(options)
        if refused:
            raise TypeError(f"a collection takes no {sorted(refused)[0]!r}; sinks are given by member_sinks")
        if (state is None) == (member_dim is None):
            raise ValueError("pass either state=(parameters, buffers) or member_dim= with members=")
        if state is not None:
            count = count_members(state() if callable(state) else state)
        elif members is None:
            raise ValueError("member_dim needs members=, their number")
        else:
            count = members
        if members not in (None, count):
            raise ValueError(f"the state has {count} members, not {members}")
        self._members = Members(count, state, member_dim)
        self._parameter_dim = parameter_dim
        self._places = [Destination(path, list(member_sinks(i))) for i, path in enumerate(_paths(runs, count))]
        super().__init__(model, probe, **options)
        self._prober.members = self._members
        if self._weight_norms:
            self._norms()

    def _check_destinations(self) -> None:
        self._destinations = self._places
        super()._check_destinations()

    def _check_gradients(self) -> None:
        moments, n, stacked = self._gradients, self._members.count, self._members.state is not None
        if moments is None or (moments.members == n and moments.reads_parameters != stacked):
            return
        way = f".functional(model, members={n})" if stacked else f"(model, optimizer, members={n})"
        raise ValueError(
            f"gradients must be GradientMoments{way}, got those of {moments.members or 'one network'}"
            + ("" if moments.reads_parameters else ", functional")
        )

    def snapshot(
        self,
        step: int,
        *,
        epoch: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
        state: State | None = None,
    ) -> bool:
        """As `Recorder.snapshot`, for all members; `state` replaces the one in use.

        A metric may have one number per member.
        """
        if state is not None and not self._problems.attempt("a call of snapshot", lambda: self._use(state)):
            self._problems.warn_of_new()
            return False
        return super().snapshot(step, epoch=epoch, metrics=metrics, force=force)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "members": self._members.count}

    def _use(self, state: State) -> bool:
        if self._members.state is None:
            raise ValueError("this collection runs its members by itself and takes no state")
        if (found := count_members(state)) != self._members.count:
            raise ValueError(f"the state has {found} members, not {self._members.count}")
        self._members.state = state
        return True

    def _numbers(self, metrics: Mapping[str, Any], step: int) -> list[dict[str, float]]:
        columns = self._each_metric(metrics, self._column, step)
        return [{name: float(c[i]) for name, c in columns.items()} for i in range(self._members.count)]

    def _column(self, name: str, value: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
        check_name(name)
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float64)
        if array.ndim > 1 or (array.ndim == 1 and len(array) != self._members.count):
            raise TypeError(
                f"metric {name!r} must be one number or {self._members.count} of them, got shape {array.shape}"
            )
        return np.broadcast_to(array, (self._members.count,))

    def _norms(self) -> LayerMetrics:
        n = self._members.count
        if self._members.state is not None:
            return weight_norms(self._model, members=n, values=self._members.current()[0])
        dim = self._parameter_dim
        if dim is None:
            dim = 0 if self._gradients is None else self._gradients.parameter_dim
        return weight_norms(self._model, members=n, parameter_dim=dim)

    def _emit(self, call: Call, layers: tuple[Layer, ...], values: Mapping[str, Tensor]) -> None:
        now = time.time()
        n = self._members.count
        layer_metrics = self._attempt_metrics(call, lambda found: member_numbers(found, n)) or [{}] * n
        arrays, pending = (
            self._memory().arrays(values) if any(d.needs_arrays for d in self._destinations) else ({}, None)
        )
        for i, destination in enumerate(self._destinations):
            destination.take(
                Snapshot(
                    step=call.step,
                    epoch=call.epoch,
                    time=now,
                    layers=layers,
                    arrays={key: a[i] for key, a in arrays.items()},
                    metrics=call.metrics[i] if call.metrics else {},
                    layer_metrics=layer_metrics[i],
                    tensors={key: v[i] for key, v in values.items()},
                    pending=pending,
                ),
                self._problems,
            )


def _paths(runs: Sequence[str | Path] | str | Path | None, count: int) -> list[Path | None]:
    if runs is None:
        return [None] * count
    if isinstance(runs, str | Path):
        paths = [Path(str(runs).format(member=i)) for i in range(count)]
    else:
        paths = [Path(r) for r in runs]
    if len(paths) != count or len(set(paths)) != count:
        raise ValueError(
            f"{count} members need {count} different runs, got {len(set(paths))}; use a name with {{member}}"
        )
    return list(paths)
