"""Which layers: names, globs, patterns, types, predicates or modules -> modules of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from infoplane.core.errors import closest
from infoplane.core.globs import across_parts, name_matches
from infoplane.core.text import printable

T = TypeVar("T")
D = TypeVar("D")
Site = Literal["in", "out"]
LayerSpec = str | re.Pattern[str] | type[nn.Module] | nn.Module | Callable[[str, nn.Module], bool]
Layers = LayerSpec | Sequence[LayerSpec] | None

# NAME#CALL@SITE.PATH, all but the name optional: `block#1`, `fc1@in`, `lstm@out[0]`.
_SPEC = re.compile(r"(?P<name>.*?)(?:#(?P<call>\d+))?(?:@(?P<site>in|out)(?P<path>(?:[.\[].*)?))?\Z", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Target:
    """One module to record, with what the user said about it.

    `call` and `path` are None where they were left open; `exact` is false for a module that a pattern found,
    which may be passed over when it never runs. `op` is the function called inside the module that is recorded, "" for
    the module itself.
    """

    named: Named
    site: Site = "out"
    call: int | None = None
    path: str | None = None
    exact: bool = True
    op: str = ""

    @property
    def name(self) -> str:
        """`block.0`, or `block.0::relu` for a function called inside."""
        return f"{self.named.name}::{self.op}" if self.op else self.named.name


@dataclass(frozen=True)
class OpTarget:
    """Functions called inside modules, by a glob over `module::function`; resolved by the first forward pass."""

    pattern: str
    call: int | None = None


def select(specs: Layers, modules: Mapping[str, Named], model_name: str) -> list[Target | OpTarget]:
    """Return the places that the user's choice `specs` names in a model with these `modules`, each place once.

    A string is a module's name (`encoder.0`) or a glob (`encoder.*.act`, see `infoplane.core.globs`). Either may come
    with a call, a site and a place in the output: `block#1`, `fc1@in`, `lstm@out[0]`, `bert@out.last_hidden_state`.
    `@out` alone is the output of the model. A compiled regular expression must match the whole name. `block.0::relu#1`
    is the second call of `relu` that the module makes itself, not one of its submodules; such names and their globs
    (`**::gelu`) cannot be checked before the first forward pass.

    Raises
    ------
    ValueError
        If one matches nothing; the closest names are given.
    """
    if specs is None:
        raise TypeError("the default selection is made from a forward pass")
    listed = list(specs) if isinstance(specs, Sequence) and not isinstance(specs, str) else [specs]
    if not listed:
        raise ValueError("layers is empty; leave it out to record every leaf module that runs")
    found: dict[object, Target | OpTarget] = {}
    for target in [target for spec in listed for target in _resolve(spec, modules, model_name)]:
        key = target if isinstance(target, OpTarget) else (target.named.name, target.site, target.call, target.path)
        # A place given by name and by a pattern counts as given by name: then it is an error if the module never runs.
        if isinstance(target, OpTarget) or target.exact or key not in found:
            found[key] = target
    return list(found.values())


def _resolve(spec: LayerSpec, modules: Mapping[str, Named], model_name: str) -> Sequence[Target | OpTarget]:
    """Return the targets that one entry of the user's choice names; ValueError where there are none."""
    if isinstance(spec, str):
        return _resolve_string(spec, modules, model_name)
    if isinstance(spec, nn.Module):
        if given := [Target(n) for n in modules.values() if n.module is spec]:
            return given
        raise ValueError(printable(f"the {type(spec).__name__} given as a layer is not part of {model_name}"))
    if isinstance(spec, re.Pattern):
        matched = [n for n in modules.values() if any(map(spec.fullmatch, n.names))]
        what = f"/{printable(spec.pattern)}/"
    elif isinstance(spec, type):
        matched = [n for n in modules.values() if isinstance(n.module, spec)]
        what = f"type {printable(spec.__name__)}"
    elif callable(spec):
        matched = [n for n in modules.values() if spec(n.name, n.module)]
        what = f"the predicate {getattr(spec, '__name__', type(spec).__name__)}"
    else:
        raise TypeError(f"a layer is given by name, glob, regular expression, type, predicate or module, got {spec!r}")
    matched = [n for n in matched if n.has_forward]
    if not matched:
        raise ValueError(_no_match(what, what, modules, model_name))
    return [Target(n, exact=False) for n in matched]


def _resolve_string(spec: str, modules: Mapping[str, Named], model_name: str) -> Sequence[Target | OpTarget]:
    """Return the targets of a name or glob, with its site, call and path; ValueError where there are none."""
    if "::" in spec:
        function, _, number = spec.partition("#")
        return [OpTarget(function, int(number) if number else None)]
    by_name = {name: n for n in modules.values() for name in n.names}
    if spec in by_name and spec:
        return [Target(by_name[spec])]
    name, number, place, path = _SPEC.findall(spec)[0]  # every string matches; "" for what it does not say
    pattern = name if name in by_name else without_wrappers(name)  # a name may be that of the wrapped model
    site: Site = "in" if place == "in" else "out"
    call = int(number) if number else None
    if pattern in by_name:
        return [Target(by_name[pattern], site, call, path or None)]
    fits = {name: name_matches(name, pattern) for name in by_name if name}
    matched = [n for n in modules.values() if n.has_forward and any(fits.get(name) for name in n.names)]
    if not matched:
        raise ValueError(_no_match(repr(spec), pattern, modules, model_name))
    return [Target(n, site, call, path or None, exact=False) for n in matched]


def as_table(value: T | Mapping[str, T] | None) -> Mapping[str, T]:
    """Return {pattern of names: value}: a mapping as it is, a single value for all names, "*", and {} for None."""
    return {} if value is None else value if isinstance(value, Mapping) else {"*": value}


def by_pattern(table: Mapping[str, T], names: Sequence[str], default: D) -> T | D:
    """Return the entry of `table` for a thing with these names; `default` where it has none.

    The entry under one of the names comes first, then that of the first glob that fits a name, then that of "*".
    """
    themselves = [name for name in names if name in table]
    globs = [pattern for pattern in table if pattern != "*" and any(name_matches(name, pattern) for name in names)]
    return table.get([*themselves, *globs, "*"][0], default)


def check_patterns(what: str, table: Iterable[str], names: Sequence[str], kind: str) -> None:
    """Raise ValueError for a pattern of the option `what` that fits none of `names`, which are names of a `kind`."""
    # Without this check a mistyped pattern would go unnoticed, and the option would do nothing.
    for pattern in table:
        if pattern != "*" and not any(name == pattern or name_matches(name, pattern) for name in names):
            near = ", ".join(closest(pattern, names)) + across_parts(pattern, names)
            raise ValueError(f"{what} names {pattern!r}, no {kind}; closest: {near}")


def without_wrappers(name: str) -> str:
    """The name without the prefixes that wrappers put into `named_modules()` of a wrapped model."""
    parts = [p for p in name.split(".") if p not in _WRAPPED]
    return ".".join(parts[1:] if len(parts) > 1 and parts[0] == "module" else parts)


def _no_match(what: str, pattern: str, modules: Mapping[str, Named], model_name: str) -> str:
    """Return the message for a choice, called `what`, that matches no layer, with the names closest to `pattern`."""
    names, model = [n for n in modules if n], printable(model_name)
    near = ", ".join(closest(pattern, names)) if names else "none, the model has no submodules"
    near += across_parts(pattern, names)
    return f"no layer of {model} matches {what}; closest: {near}; infoplane.layers(model, batch) lists all"


_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")


def unwrap(model: nn.Module, attributes: Sequence[str] = ("_orig_mod",)) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile.

    The probe calls this one: the DDP wrapper broadcasts buffers, which on one rank alone hangs the job. A module that
    has a submodule under one of the `attributes` is a wrapper, too.
    """
    while not is_scripted(model):  # whose `_modules` has no `get`
        names = ["module"] if isinstance(model, DistributedDataParallel | DataParallel) else attributes
        inner = [module for module in map(model._modules.get, names) if module is not None]
        if not inner:
            break
        model = inner[0]
    return model


def is_scripted(module: nn.Module) -> bool:
    """Whether a module is TorchScript: it takes no hooks, and calls none inside."""
    return isinstance(module, torch.jit.ScriptModule)


@dataclass(frozen=True, eq=False)
class Named:
    """One module with its name and the `aliases`, further names under which it is also reached."""

    name: str
    module: nn.Module
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def has_forward(self) -> bool:
        """False for containers that only hold modules (ModuleList, ModuleDict)."""
        return type(self.module).forward is not nn.Module.forward

    @property
    def type_name(self) -> str:
        return type(self.module).__name__


def named_modules(model: nn.Module) -> dict[str, Named]:
    """Return every module of a model, as unwrapped, by its first name; "" is the model. TorchScript is left out.

    Raises
    ------
    TypeError
        If the model itself is scripted.
    """
    if is_scripted(unwrap(model)):
        raise TypeError("the model is a TorchScript module, which takes no hooks; record the one that it was made of")
    found: dict[int, tuple[nn.Module, list[str]]] = {}
    for name, module in _walk(unwrap(model)):
        found.setdefault(id(module), (module, []))[1].append(name)
    return {n[0]: Named(n[0], m, tuple(n[1:])) for m, n in found.values() if not is_scripted(m)}


def scripted_modules(model: nn.Module) -> list[str]:
    """Names of the modules in a model that are TorchScript."""
    return [name for name, module in _walk(unwrap(model)) if is_scripted(module)]


def _walk(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield (name, module) for this module and each below it, by every way that leads to it."""
    yield name, module
    # The wrappers of FSDP and of checkpointing still run, only their names are left out.
    inside = unwrap(module, _WRAPPED)
    for child_name, child in () if is_scripted(inside) else inside._modules.items():
        if child is not None:
            yield from _walk(unwrap(child, _WRAPPED), f"{name}.{child_name}" if name else child_name)
