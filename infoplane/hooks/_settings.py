"""The keywords of a recorder: each stands here once, with its type, its default and the values it may have."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from infoplane.core.about import Scalar, plain_about
from infoplane.core.records import Sink
from infoplane.hooks.metrics import GradientMoments
from infoplane.hooks.probe import ProbeSet, as_probe_set
from infoplane.hooks.reduce import Reduction, as_reduction
from infoplane.hooks.schedule import Schedule, check_positive
from infoplane.hooks.select import Layers, as_table

Reduce = Reduction | str | Callable[[Tensor], Tensor]


_CHOICES = {"mode": ("eval", "train"), "nonfinite": ("warn", "raise"), "on_error": ("warn", "raise")}


@dataclass(frozen=True, eq=False)
class Settings:
    """Arguments of `Recorder`, whose docstring explains each."""

    model: nn.Module
    probe: Any
    run: str | Path | None = None
    _: KW_ONLY
    name: str | None = None
    about: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
    # what is recorded
    layers: Layers = None
    depth: int | None = None
    logits: bool = True
    functional: bool = False
    calls: Literal["last", "all"] | int | None = None
    reduce: Reduce | Mapping[str, Reduce] | None = None
    dtype: torch.dtype | None = None
    batch_dim: int | Mapping[str, int] | None = None
    mask: Tensor | str | None = None
    gradients: GradientMoments | None = None
    weight_norms: bool = False
    weight_distance: Mapping[str, Tensor] | bool = False
    # the probe set
    sample_ids: Any = None
    input_ids: Any = None
    label_names: Sequence[str] = ()
    repeats: tuple[int, int] | None = None
    repeat_seed: int | None = None
    # when
    schedule: Schedule | Callable[[int], bool] | Iterable[int] | int | None = None
    initial: bool = True
    total: int | None = None
    # where to
    sinks: Iterable[Sink] = ()
    keep_activations: bool = True
    resume: bool = False
    overwrite: bool = False
    number: bool = False
    writer: Mapping[str, Any] | None = None
    # how the probe runs
    probe_batch_size: int = 256
    mode: Literal["eval", "train"] = "eval"
    autocast: torch.dtype | None = None
    forward: Callable[..., Any] | None = None
    seed: int = 0
    shard_probe: bool = False
    # what happens when something is wrong
    nonfinite: Literal["warn", "raise"] = "warn"
    on_error: Literal["warn", "raise"] = "warn"
    allow_full_disk: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for impossible arguments, and for those that exclude each other."""
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(self.model).__qualname__}")
        check_positive("probe_batch_size", self.probe_batch_size)
        if self.name is not None and not (isinstance(self.name, str) and self.name.strip()):
            raise ValueError(f"name is what figures call the run, a text such as 'seed 1', got {self.name!r:.80}")
        if self.number and self.run is None:
            raise ValueError("number counts the runs of a name; pass run='runs/digits'")
        if self.overwrite and (self.resume or self.number or not self.keep_activations):
            other = "resume" if self.resume else "number" if self.number else "keep_activations=False"
            raise ValueError(f"overwrite replaces the run in a directory; leave it out beside {other}")
        if self.depth is not None:
            if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 1:
                raise ValueError(f"depth must be a whole number of at least 1, got {self.depth!r}")
            if self.layers is not None:
                raise ValueError("layers and depth both choose layers; pass one of them")
        _ = self.abouts  # raises where a value is no number, text, bool or None
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(map(repr, choices))}, got {getattr(self, name)!r}")

    @functools.cached_property
    def reductions(self) -> Mapping[str, Reduction]:
        """The reductions that were asked for, by pattern of layer names; "*" is for all others."""
        table: Mapping[str, Reduce] = as_table(self.reduce)
        return {pattern: as_reduction(r) for pattern, r in table.items()}

    @functools.cached_property
    def abouts(self) -> list[dict[str, Scalar]]:
        """The user's words about the run, or about each member; empty where nothing was said."""
        said = self.about if isinstance(self.about, list | tuple) else [self.about]
        return [plain_about(about) for about in said if about is not None]

    @property
    def named(self) -> Layers:
        """The layers that the user named; None for the default and for "blocks", which the model's structure gives."""
        return None if isinstance(self.layers, str) and self.layers == "blocks" else self.layers

    @property
    def batch_dims(self) -> Mapping[str, int]:
        """Axes of the samples by pattern of layer names, where they were given."""
        return as_table(self.batch_dim)

    @property
    def keeps_norms(self) -> bool:
        """Whether norms of weights are recorded: gradient moments bring them along."""
        return self.weight_norms or self.gradients is not None

    def probe_set(self) -> ProbeSet:
        """The inputs and their record."""
        return as_probe_set(
            self.probe,
            sample_ids=self.sample_ids,
            input_ids=self.input_ids,
            label_names=self.label_names,
            mask="attention_mask" if self.mask is None else self.mask,
            repeats=self.repeats,
            repeat_seed=self.repeat_seed,
        )
