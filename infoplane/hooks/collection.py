"""Recording many networks that are trained as one batched program: one probe pass, one run each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from infoplane.core.records import Sink
from infoplane.hooks._out.destination import Destination
from infoplane.hooks._pass.members import Members, State, count_members
from infoplane.hooks._session import Session
from infoplane.hooks._settings import Settings
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
    about : mapping, or a sequence of mappings, one for each member, optional
        As in Recorder.
    member_sinks : function from member to sinks, optional
    parameter_dim : int, or mapping from pattern of parameter names to int
        Axis of the members in the parameters of a hand-stacked module, for `weight_norms`; that of `gradients`, or
        the first, by default.
    **options
        Further arguments of Recorder; not `sinks`, `shard_probe` and `number`. `gradients` are GradientMoments with
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
        if other := sorted({"sinks", "shard_probe", "number"} & set(options)):
            raise TypeError(f"a collection takes no {other[0]!r}; sinks are given by member_sinks, directories by runs")
        if (state is None) == (member_dim is None):
            raise ValueError("pass either state=(parameters, buffers) or member_dim= with members=")
        count = members if state is None else count_members(state() if callable(state) else state)
        if count is None:
            raise ValueError("member_dim needs members=, their number")
        if members not in (None, count):
            raise ValueError(f"the state has {count} members, not {members}")
        if parameter_dim is None:
            parameter_dim = getattr(options.get("gradients"), "parameter_dim", 0)
        destinations = [Destination(path, list(member_sinks(i))) for i, path in enumerate(_paths(runs, count))]
        settings = Settings(model, probe, **options)
        self._hold(Session(settings, destinations, Members(count, state, member_dim, parameter_dim)))

    def snapshot(
        self,
        step: int,
        *,
        epoch: float | None = None,
        metrics: Mapping[str, Any] | None = None,
        force: bool = False,
        state: State | None = None,
    ) -> bool:
        """Record all members as `Recorder.snapshot` does one model; `state` replaces the state in use.

        A metric may have one number per member.
        """
        return self._session.snapshot(step, epoch, metrics, force=force, state=state)


def _paths(runs: Sequence[str | Path] | str | Path | None, count: int) -> list[Path | None]:
    """Return a directory for each of `count` members, Nones without `runs`; ValueError unless all are different."""
    if runs is None:
        return [None] * count
    each = [str(runs).format(member=i) for i in range(count)] if isinstance(runs, str | Path) else runs
    paths = [Path(run) for run in each]
    different = len(set(paths))
    if len(paths) != count or different != count:
        raise ValueError(f"{count} members need {count} different runs, got {different}; use a name with {{member}}")
    return list(paths)
