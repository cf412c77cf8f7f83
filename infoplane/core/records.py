"""Frozen value types that travel between the parts: what was captured, where, and on which inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from infoplane.core.brief import Brief

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Role = Literal["activation", "output", "input", "other"]
Site = Literal["out", "in"]
NoiseKind = Literal["additive", "multiplicative"]
NO_LABEL = -100
"""Marks a position without a label, as losses do."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Gaussian noise that the network itself adds after a layer.

    `std` is in the units of the layer (additive) or relative to it (multiplicative: std times |t|).
    `clean` says whether the recorded value is the one before the noise.
    """

    std: float
    kind: NoiseKind = "additive"
    clean: bool = True


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One captured tensor of the model.

    Attributes
    ----------
    key : str
        Unique in a run: the label with site, call and path where they are not the default (`fc1`,
        `fc1@in`, `block#1`, `lstm@out[0]`). Results and plots use it as the layer's name.
    name : str
        The module's qualified name, unwrapped (`module.` and `_orig_mod.` removed); "" is the model.
    site : str
        "out" or "in".
    call : int
        Which call of the module in one forward pass, from 0.
    path : str
        Place of the tensor in a structured output: "", "[0]", ".last_hidden_state".
    role : str
        "activation" for outputs of activation modules, "output" for the model's last layer, "input"
        for a value captured on its way in, "other" for the rest. Plots draw activations and the
        output by default.
    depth : int
        Position in the order of the forward pass, from 0.
    unit_shape, raw_shape : tuple of int
        Shape of one sample after and before `reduction`.
    dtype : str
        Logical dtype as torch names it: "float32", "bfloat16", ...
    noise : Noise or None
        The noise that the network adds after this layer, where the user installed noise injection.
    aliases : tuple of str
        Further names of the same module.
    """

    key: str
    name: str
    depth: int
    unit_shape: tuple[int, ...]
    dtype: str = "float32"
    module_type: str = ""
    role: Role = "other"
    site: Site = "out"
    call: int = 0
    path: str = ""
    raw_shape: tuple[int, ...] = ()
    reduction: str = "flatten"
    noise: Noise | None = None
    aliases: tuple[str, ...] = ()

    @property
    def units(self) -> int:
        """Number of values of one sample."""
        return math.prod(self.unit_shape)

    def to_json(self) -> dict[str, Any]:
        """Return the record in types of JSON; without `noise` where there is none."""
        lists = {name: list(getattr(self, name)) for name in ("unit_shape", "raw_shape", "aliases")}
        out = vars(self) | lists
        del out["noise"]
        return out if self.noise is None else out | {"noise": dict(vars(self.noise))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Layer:
        """Return a layer from what `to_json` gives; ValueError or KeyError for anything else."""
        # `dtype` has a default for layers made in Python, but a record without it is refused, as one without a key.
        named = [f for f in fields(cls) if f.name in data or f.default is MISSING or f.name == "dtype"]
        return cls(**{f.name: _FROM_JSON[str(f.type)](data[f.name]) for f in named})


def _one_of(allowed: Any, value: Any) -> Any:
    """Return `value`; ValueError unless it is one of the texts of `allowed`, a `Literal`."""
    if value not in get_args(allowed):
        raise ValueError(f"expected one of {', '.join(get_args(allowed))}, got {value!r}")
    return value


def _noise(data: Mapping[str, Any] | None) -> Noise | None:
    """Return the noise from its JSON record; None where there is none."""
    if data is None:
        return None
    return Noise(std=float(data["std"]), kind=_one_of(NoiseKind, data["kind"]), clean=bool(data["clean"]))


# A field's type, as it is written above -> how it is read.
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "str": str,
    "int": int,
    "Role": partial(_one_of, Role),
    "Site": partial(_one_of, Site),
    "Noise | None": _noise,
    "tuple[int, ...]": lambda values: tuple(map(int, values)),
    "tuple[str, ...]": lambda values: tuple(map(str, values)),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe(Brief):
    """The fixed inputs and labels on which every snapshot is taken, one entry per recorded row.

    Attributes
    ----------
    sample_ids : (N,) int64
        The user's identifiers of the rows; unique within one pass.
    input_ids : (N,) int64
        Rows with the same input share an id. Duplicated inputs and repeated noisy passes both show
        here, and make H(T|X) different from zero.
    repeats : (N,) int64
        0 for the first pass over an input; k for the k-th further pass of a noisy network.
    labels : (N,) or (N, positions) int64, or (N,) / (N, k) float64
        Classes, of the sample or of each position of its sequence (-100: none there), or regression targets.
    part : (N,) int64, index into `part_names`
        Which probe set a row belongs to ("train", "test", ...); one part named "all" by default.
    inputs : (N, features) array or None
        The flattened inputs where they were kept; several inputs of a model lie side by side.
    input_shapes : tuple of shapes
        The shape of one sample of each input before it was flattened, `((1, 28, 28),)`; empty where unknown.
    label_names : tuple of str
        Names of the classes, or empty.
    """

    sample_ids: IntArray
    input_ids: IntArray
    repeats: IntArray
    labels: npt.NDArray[Any]
    part: IntArray
    part_names: tuple[str, ...] = ("all",)
    inputs: npt.NDArray[Any] | None = None
    label_names: tuple[str, ...] = ()
    input_shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def samples(self) -> int:
        return len(self.sample_ids)

    def shaped_inputs(self) -> list[npt.NDArray[Any]]:
        """Return the model's inputs as it takes them, `(N, *shape)` each; one flat array where no shapes are known.

        Raises
        ------
        ValueError
            If the inputs were not kept.
        """
        if self.inputs is None:
            raise ValueError("the probe's inputs were not kept")
        if not self.input_shapes:
            return [self.inputs]
        sizes = [math.prod(shape) for shape in self.input_shapes]
        columns = np.split(self.inputs, np.cumsum(sizes)[:-1], axis=1)
        return [c.reshape(len(c), *shape) for c, shape in zip(columns, self.input_shapes, strict=True)]

    @property
    def target(self) -> Literal["discrete", "continuous"]:
        """Classes are integers, regression targets are floats; neither is guessed from the values."""
        return "discrete" if np.issubdtype(self.labels.dtype, np.integer) else "continuous"

    @property
    def positions(self) -> int | None:
        """How many positions of a sequence have labels of their own; None where a sample has one label."""
        return int(self.labels.shape[1]) if self.target == "discrete" and self.labels.ndim == 2 else None


@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """All captured layers on the probe set at one training step.

    Attributes
    ----------
    step : int
        Completed units of training (epochs or iterations, whatever the loop counts).
    epoch : float
        The loop's own counter; NaN where it has none.
    time : float
        Seconds since the Unix epoch.
    layers : tuple of Layer
        In forward order.
    arrays : mapping from Layer.key to array `(N, *unit_shape)`
        Stored numbers; bfloat16 as its uint16 bits, with the logical dtype in the Layer.
    metrics : mapping from name to value
        Numbers about the whole model: loss, accuracy.
    layer_metrics : mapping from (layer or parameter name, metric) to value
        Weight norms, gradient moments.
    tensors : mapping from Layer.key to torch tensor, or None
        The same values on the model's device, for sinks that compute there; valid during the call only.
    rows : (N,) int64 or None
        Probe rows present, when a rank holds a part of the probe; None means all.
    pending : callable or None
        Where the arrays are still being copied from a device: returns when they hold their numbers, and raises
        what went wrong. None where they do already.
    """

    step: int
    epoch: float
    time: float
    layers: tuple[Layer, ...]
    arrays: Mapping[str, npt.NDArray[Any]]
    metrics: Mapping[str, float] = field(default_factory=dict)
    layer_metrics: Mapping[tuple[str, str], float] = field(default_factory=dict)
    tensors: Mapping[str, Any] | None = None
    rows: IntArray | None = None
    pending: Callable[[], None] | None = None

    def wait(self) -> None:
        """Return when the arrays can be read; needed only by sinks that are called before, for `reads_later = True`."""
        if self.pending is not None:
            self.pending()


class Sink(Protocol):
    """Whatever takes a snapshot: the store's writer, live estimation, any callable."""

    def __call__(self, snapshot: Snapshot, /) -> None: ...
