"""Pairs: a second recorded array in the place of labels, and where their Shannon information is finite.

The second array is another layer, or it is taken at another step, from another run, or on another row of the same
input. Two arrays that are functions of one X have an information that is infinite, or log2 N on a probe, and says
nothing of either. It is finite where noise lies between them, and of that only what was recorded counts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np

from infoplane.analysis.source import LayerSteps, Partner, bad_steps, choose_layers, contents
from infoplane.analysis.subsets import Subset, views
from infoplane.core.files import fingerprint
from infoplane.core.records import Layer
from infoplane.core.steps import step_words
from infoplane.core.tokens import token_key
from infoplane.estimators import Estimator
from infoplane.results.names import PREVIOUS
from infoplane.store import ActivationStore, open_run

Run = str | os.PathLike[str] | ActivationStore

INFINITE = (
    "both are functions of one X, and their Shannon information is infinite or log2 of the number of inputs whatever "
    "the network has learned"
)
OTHERS = "or take an estimator that gives no Shannon information: hsic, cs-qmi, renyi, dse"
"""The end of errors on infinite information: what else can be done."""
_VIEW = re.compile(r"view=(\d+)")


class Pairs:
    """The pairs that the caller asks for: which layers, and where the second array, the partner, is taken from.

    Attributes
    ----------
    names : list of (str, str), or None
        Names or globs of layers and of their partners; None pairs each layer with itself.
    previous : bool
        The partner is taken at the step before.
    view : int
        It is taken on this row of each input, 1 for the row of the layer itself.
    other : ActivationStore or None
        It is taken from this run; None for the run of the layer.
    """

    def __init__(self, names: Sequence[tuple[str, str]] | None, against: Run | None) -> None:
        """Read the pairs of layers `names`, if any, and `against`: None, "previous", "view=2" and so on, or a run.

        ValueError for an empty list of pairs, a view below 2, or a path where there is no run.
        """
        self.names = None if names is None else [_two(each) for each in names]
        self.previous = against == PREVIOUS
        self.view = 1
        self.other: ActivationStore | None = None
        if self.names == []:
            raise ValueError("pairs must name at least one pair of layers, got none")
        found = _VIEW.fullmatch(against) if isinstance(against, str) else None
        if found is not None:
            self.view = int(found[1])
            if self.view < 2:
                raise ValueError(f"against={against!r}: views are counted from 1, the layer itself; take view=2")
        elif against is not None and not self.previous:
            self.other = against if isinstance(against, ActivationStore) else _open(against)

    def layer_steps(
        self, store: ActivationStore, path: str, layers: str | Sequence[str] | None, subsets: Iterable[Subset]
    ) -> list[LayerSteps]:
        """Return the pairs of one run, each at the steps that both its arrays have.

        `path` is what the pairs call the run of `store`. `layers` is None unless each layer is paired with itself.

        Raises
        ------
        ValueError
            No layer matches, no step has both arrays, no input has so many rows as `view`, the other run is this one or
            has another probe, or `layers` is given beside named pairs.
        """
        other = self.other or store
        self._check(store, subsets)
        places = self._places(store, other, layers)
        own = contents(store, {key for (key, _), _ in places} | {key for _, (key, _) in places if other is store})
        theirs = own if other is store else contents(other, {key for _, (key, _) in places})
        marks = [fingerprint(repr(found).encode()) for found in (own, theirs)]  # by which a change of a run is noticed
        pairs = []
        for (key, token), (key2, token2) in places:
            sources, sources2 = dict(own[key]), dict(theirs[key2])
            steps = self._steps(list(sources), sources2)
            where = path if other is store else os.path.abspath(other.path)  # noqa: PTH100 - as the user wrote it
            partner = Partner(where, marks[1], key2, token2, steps, self._name(key, token, key2, token2), self.view)
            bad, bad2 = bad_steps(store, key, token), bad_steps(other, key2, token2)
            keys = tuple((s, partner.digest(s, sources[s], sources2[at])) for s, at in steps.items())
            either = frozenset(s for s, at in steps.items() if s in bad or at in bad2)
            pairs.append(LayerSteps(path, marks[0], store.run_id, key, keys, either, token, partner))
        if not any(each.keys for each in pairs):
            raise ValueError(f"{store.path}: no step has both arrays of a pair; it has {step_words(store.steps())}")
        return [each for each in pairs if each.keys]

    def _check(self, store: ActivationStore, subsets: Iterable[Subset]) -> None:
        """Raise ValueError where a subset has no such view, or the other run is this one or has another probe."""
        for subset in subsets if self.view > 1 else ():
            if not len(views(store.probe, subset, self.view)[0]):
                raise ValueError(
                    f"no input of {store.path} has {self.view} rows in subset {subset.name!r}; give the views of one "
                    "sample the same input_ids, or record further passes with repeats=(m, n_x)"
                )
        if self.other is not None and self.other.run_id == store.run_id:
            raise ValueError(f"{store.path} against itself: give another run, against='previous', or pairs=[...]")
        if self.other is not None and self.other.probe_digest != store.probe_digest:
            raise ValueError(
                f"{store.path} and {self.other.path} have other probes, so their rows do not belong together; record "
                "both with the same inputs, labels and ids"
            )

    def _places(self, store: ActivationStore, other: ActivationStore, layers: str | Sequence[str] | None) -> list[Any]:
        """Return ((layer, token), (partner, token)) of each pair, each pair once; token None: a whole layer."""
        if self.names is None:
            return [(place, place) for place in choose_layers(store, layers)]
        if layers is not None:
            raise ValueError("layers and pairs both choose layers; pass one of them")
        sides = [(choose_layers(store, a), choose_layers(other, b)) for a, b in self.names]
        return list(dict.fromkeys(pair for a, b in sides for pair in product(a, b)))

    def _steps(self, steps: Sequence[int], partner_steps: Iterable[int]) -> dict[int, int]:
        """Return {step of the layer: step of its partner}: the same one, or with `previous` the last before it."""
        if not self.previous:
            return {step: step for step in steps if step in partner_steps}
        earlier = {step: [each for each in partner_steps if each < step] for step in steps}
        return {step: max(before) for step, before in earlier.items() if before}

    def _name(self, key: str, token: int | None, key2: str, token2: int | None) -> str:
        """Return the name in the table of the partner (`key2`, `token2`): `fc1`, `view=2`, `fc1@run=...`."""
        name = key2 if token2 is None else token_key(key2, token2)
        if self.view > 1:
            return f"view={self.view}" if (key, token) == (key2, token2) else f"{name}@view={self.view}"
        return name if self.other is None else f"{name}@run={self.other.run_id}"


def _two(names: Any) -> tuple[str, str]:
    """The two names of one pair; ValueError for anything else."""
    if isinstance(names, str) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"pairs are of two layers, as ('fc1', 'fc4'), got {names!r}")
    return names[0], names[1]


def _open(against: str | os.PathLike[str]) -> ActivationStore:
    """The store of the run at this path; ValueError where there is no such directory."""
    if not os.path.isdir(against):  # noqa: PTH112 - a text may be no path at all
        raise ValueError(f"against must be 'previous', 'view=2', or another run, got {str(against)!r}")
    return open_run(against)


# Which estimator takes which pair


def refusal(layer: LayerSteps, estimator: Estimator, store: ActivationStore, other: ActivationStore) -> str | None:
    """Return why an estimator does not take a pair, None where it does.

    `layer` is the pair at the steps that are asked for, `store` and `other` are the runs of its two arrays. Of several
    reasons the first is returned, with its steps.
    """
    if "continuous" not in estimator.targets:
        return (
            f"{estimator.name} takes classes, and the second layer of a pair is a real vector; knn and gaussian take it"
        )
    if not getattr(estimator, "shannon", True) or not layer.keys:
        return None
    reasons: dict[str, list[int]] = {}
    for step in layer.steps:
        why = _why_infinite(layer, step, store, other)
        if why is not None:
            reasons.setdefault(why, []).append(step)
    if not reasons:
        return None
    reason, steps = next(iter(reasons.items()))
    return reason if len(steps) == len(layer.steps) else f"at {step_words(steps)} {reason}"


def _why_infinite(layer: LayerSteps, step: int, store: ActivationStore, other: ActivationStore) -> str | None:
    """Return why the Shannon information of the pair is infinite, or log2 N, at this step.

    None where it is not: noise lies between the two arrays, or they are of different views of each input.
    """
    partner = layer.partner
    assert partner is not None
    a, b = store.layer(layer.layer, step), other.layer(partner.layer, partner.steps[step])
    # Both arrays are of the same forward pass: noise has to lie between the two layers.
    if partner.path == layer.path and partner.view == 1 and partner.steps[step] == step:
        if _between(store, step, *sorted((a, b), key=lambda each: each.depth)):
            return None
        first = min(a, b, key=lambda each: each.depth).key
        return (
            f"no noise was recorded between {a.key} and {b.key} that every path goes through: {INFINITE}; put "
            f"NoiseInjection on {first} or on a layer between the two, {OTHERS}"
        )
    # They are of different passes: noise ahead of one of the layers is enough, if the passes drew it independently.
    random = _is_random(store, step, a) or _is_random(other, partner.steps[step], b)
    if partner.view > 1:
        # Views with independent noise differ by it; without it they must differ by their inputs.
        independent = random and not _may_share_noise(store, partner.view)
        return None if independent else _alike(store, partner.view, a.key)
    if not random:
        return (
            f"no noise was recorded on a layer before {a.key} that every path goes through: {INFINITE}; put "
            f"NoiseInjection on a layer before it, {OTHERS}"
        )
    seeds = [each.settings.get("seed") for each in (store, other)]
    if partner.path != layer.path and (None in seeds or seeds[0] == seeds[1]):
        said = f"has the recorder's seed {seeds[0]} too"
        if None in seeds:
            said = "does not say with which seed noise was drawn"
        return (
            f"{other.path} {said}, and equal seed and step draw equal noise: {INFINITE}; record one of the runs with "
            f"another seed=, {OTHERS}"
        )
    return None


def _between(store: ActivationStore, step: int, first: Layer, second: Layer) -> bool:
    """Whether noise lies between the recorded values of two layers of one forward pass, on every path to the second."""
    # A `clean` value was recorded before the noise of its layer was added: that noise comes after it.
    if second.noise is not None and not second.noise.clean and first.key != second.key:
        return True
    chain = _chain(store, step)
    if second.key not in {each.key for each in chain}:
        return False
    # Noise of `first` itself lies between the two only where its value was recorded clean.
    inner = [each for each in chain if each.noise is not None and first.depth <= each.depth < second.depth]
    return any(each.key != first.key or (each.noise is not None and each.noise.clean) for each in inner)


def _is_random(store: ActivationStore, step: int, layer: Layer) -> bool:
    """Whether the recorded value holds noise that every path from the input goes through, so that I(X;T) is finite."""
    if layer.noise is not None and not layer.noise.clean:
        return True
    chain = _chain(store, step)
    known = layer.key in {each.key for each in chain}
    return known and any(each.noise is not None and each.depth < layer.depth for each in chain)


def _chain(store: ActivationStore, step: int) -> list[Layer]:
    """Return the layers recorded at this step that form a chain, as the run's settings say, in forward order.

    Every path from the input to the last of them goes through each. The list is empty where there is no such chain.
    """
    chain = store.settings.get("chain", False)
    known = [layer.key for layer in store.layers] if chain is True else chain if isinstance(chain, list) else []
    keys = [layer.key for layer in store.layers if layer.key in known]
    return [store.layer(key, step) for key in keys if store.recorded(key, step)]


def _may_share_noise(store: ActivationStore, view: int) -> bool:
    """Whether the first row and the `view`-th of some input may have equal noise.

    They may where both rows are of one pass and several processes, which have one seed, recorded the run.
    """
    if all(shard.meta.world_size == 1 for shard in store.valid_shards()):
        return False
    one, two = views(store.probe, Subset(), view)
    return bool((store.probe.repeats[one] == store.probe.repeats[two]).any())


def _alike(store: ActivationStore, view: int, layer: str) -> str | None:
    """Return why two rows of one input may be no random views of it (not kept, or some equal); None where they are."""
    inputs = store.probe.inputs
    if inputs is None:
        return (
            f"the inputs of the probe were not kept, so whether view 1 and view {view} differ is not known: record a "
            f"smaller probe, {OTHERS}"
        )
    one, two = views(store.probe, Subset(), view)
    flat = inputs.reshape(len(inputs), -1)
    equal = int(np.count_nonzero((flat[one] == flat[two]).all(axis=1)))
    if not equal:
        return None
    return (
        f"{equal} of {len(one)} inputs are the same in view 1 and view {view}, and no noise of their own was recorded "
        f"on a layer before {layer}: {INFINITE}; draw other views, put NoiseInjection on a layer before it, {OTHERS}"
    )
