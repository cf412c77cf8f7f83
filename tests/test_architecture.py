"""The shape of the package, read from its syntax trees: who imports whom, and what nobody may do."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import infoplane

PACKAGE = Path(infoplane.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

# part -> parts directly upstream; a part may use everything upstream of those as well.
UPSTREAM = {
    "core": [],
    "datasets": ["core"],
    "store": ["core"],
    "hooks": ["store"],
    "integrations": ["hooks"],
    "estimators": ["core"],
    "results": ["core"],
    "plots": ["studies"],
    "report": ["studies"],
    "diagnostics": ["results"],
    "studies": ["diagnostics"],
    "importers": ["store"],
    "analysis": ["store", "estimators", "results"],
    "live": ["analysis"],
    "watch": ["analysis", "report"],
    "certify": ["analysis", "datasets", "testing"],
    "testing": ["estimators"],
    "demo": ["hooks", "analysis", "plots", "report", "diagnostics", "datasets"],
    "cli": ["demo", "certify", "live", "watch", "importers", "integrations", "testing"],
    "__main__": ["cli"],
    "__init__": [],
}
# third-party modules that only these parts may import
OWNERS = {
    "h5py": {"store"},
    "matplotlib": {"plots"},
    "pandas": {"results", "studies"},
    "plotly": set(),
    "torch": {
        "hooks", "integrations", "estimators", "importers", "analysis", "live", "certify", "testing", "demo",
    },
}  # fmt: skip


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    name = first.removesuffix(".py")
    # live stands in _live.py, so that the name infoplane.live stays with the function; _watch.py is the command's alone
    return name if name.startswith("__") else name.lstrip("_")


def allowed(part: str) -> set[str]:
    found, todo = {part}, [part]
    while todo:
        for up in UPSTREAM[todo.pop()]:
            if up not in found:
                found.add(up)
                todo.append(up)
    return found


@functools.cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """The syntax tree of a file, its module first: each file is read once."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path) -> list[str]:
    """Dotted names imported anywhere in the file, but for `if TYPE_CHECKING` blocks of the package root."""
    out = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            out += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively"
            out += [f"{node.module}.{alias.name}" for alias in node.names]
    return out


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_upstream_only(path):
    part = part_of(path)
    assert part in UPSTREAM, f"{path.name}: say in UPSTREAM where {part!r} stands"
    for name in imports(path):
        root, *rest = name.split(".")
        if root == "infoplane" and rest and part != "__init__" and rest[0] != "__version__":
            upstream = part_of(PACKAGE / rest[0])
            assert upstream in allowed(part), f"{path.name} ({part}) must not import {name}"
        assert part in OWNERS.get(root, {part}), f"{path.name} ({part}) must not import {name}"


def test_private_modules_are_used_by_their_own_part_only():
    for path in FILES:
        for name in imports(path):
            root, *rest = name.split(".")
            if root != "infoplane" or len(rest) < 2 or part_of(PACKAGE / rest[0]) == part_of(path):
                continue
            private = [word for word in rest[1:] if word.startswith("_") and not word.startswith("__")]
            assert not private, f"{path.relative_to(PACKAGE)} imports {name}, which is private to {rest[0]}"


# What figures take from results: the table, `choose` with what it gives and takes, and the words and scores of numbers.
TAKEN_BY_FIGURES = {
    "": {"ResultTable", "DataProcessing", "Plane", "read_table", "run_names"},
    "names": {"runs_called"},
    "overview": {"FLAG_WORDS", "shared_words"},
    "scales": {"by_scale"},
    "trajectories": {"Ceiling", "Grid"},
    "views": {"RECORDED", "Selection", "Series", "advice_words", "choose", "match_layers", "metric_group", "options"}
    | {"settings_words"},
    "limits": {"HUGE", "axis_limits", "drawable", "widened"},
    "summary": {"Compression", "Summary", "at_common_steps", "compression", "over_runs", "upper_fence"},
    "losses": {"loss_words", "losses"},
}


def test_figures_read_a_table_through_choose_alone():
    """Only `choose` narrows the table to arrays, and a figure or its data calls it once."""
    for path in sorted((PACKAGE / "plots").glob("*.py")):
        for name in imports(path):
            if name.startswith("infoplane.results."):
                module, _, taken = name.removeprefix("infoplane.results.").rpartition(".")
                assert taken in TAKEN_BY_FIGURES[module], f"plots/{path.name} must not import {name}"
        for function in nodes(path):
            if isinstance(function, ast.FunctionDef):
                calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
                chosen = sum(ast.unparse(call) == "choose" for call in calls)
                assert chosen <= 1, f"plots/{path.name}: {function.name} calls choose {chosen} times"


def test_figures_narrow_no_table_themselves():
    """But for the gradients: their figure says which of them the table lacks."""
    narrowing = {"select", "take", "current", "curves"}
    found = set()
    for path in (PACKAGE / "plots").glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                called = {node.func.attr for node in ast.walk(function)
                          if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)}  # fmt: skip
                found |= {(path.name, function.name)} if called & narrowing else set()
    assert found == {("snr.py", "check_recorded")}


def test_the_graph_has_no_cycle():
    for part, above in UPSTREAM.items():
        for up in above:
            assert part not in allowed(up)


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_at_once(path: Path) -> set[str]:
    """Modules of the package that importing this one imports: at its top, but not for type checking only."""
    known = {module_name(file) for file in FILES}
    out: set[str] = set()
    for node in nodes(path)[0].body:
        if isinstance(node, ast.Import):
            out |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from package import module` imports the module, `from module import name` the module that has the name
            out |= {name if name in known else str(node.module) for name in names}
    return out & known


def test_no_two_modules_import_each_other():
    """Neither directly nor through others: any module can be imported first, and read first."""
    graph = {module_name(file): imported_at_once(file) for file in FILES}
    while leaves := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in leaves}
    assert not graph, f"import circle among {sorted(graph)}"


# Names that two classes still have. The list may only become shorter.
SHARED_NAMES = {
    "Data",
    "Loss",
    "Named",
    "Piece",
    "Problem",
    "RecorderCallback",
    "Row",
    "Rows",
    "Side",
    "Task",
}


def test_a_class_name_means_one_thing():
    named: dict[str, set[str]] = {}
    for file in FILES:
        for node in nodes(file):
            if isinstance(node, ast.ClassDef):
                named.setdefault(node.name.lstrip("_"), set()).add(module_name(file))
    shared = {name for name, homes in named.items() if len(homes) > 1}
    assert shared <= SHARED_NAMES, {name: sorted(named[name]) for name in shared - SHARED_NAMES}


FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_what_a_file_says(path):
    """No pickle, eval, exec, allow_pickle or torch.load of more than weights; nothing swallows all exceptions."""
    if part_of(path) != "testing":  # which checks that an estimator can be sent to another process
        for name in imports(path):
            assert name.split(".")[0] not in FORBIDDEN_MODULES
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            bare = node.type is None or (
                isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")
            )
            reraises = any(isinstance(n, ast.Raise) for n in ast.walk(node))
            kept = any(isinstance(n, ast.Assign) and ast.unparse(n.value) == node.name for n in ast.walk(node))
            assert not bare or reraises or kept, f"{path.name}:{node.lineno} swallows every exception"
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        assert called not in ("eval", "exec", "os.system"), f"{path.name}:{node.lineno} calls {called}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("allow_pickle", "False") == "False"
        assert keywords.get("shell", "False") == "False"
        if called == "torch.load":
            assert keywords.get("weights_only") == "True", f"{path.name}:{node.lineno} loads more than weights"


# Where a device's kind may be asked for otherwise than by `on_accelerator`: (file, function) -> why.
KIND_ASKED = {
    ("core/device.py", "on_accelerator"): "the one place",
    ("estimators/_pairwise.py", "float32_is_exact"): "which backend's setting says what float32 products are made of",
    ("hooks/_out/host.py", "__init__"): "streams, events and page-locked memory are CUDA's alone",
    ("hooks/_pass/state.py", "_cuda_devices"): "which CUDA generators are in use",
    ("analysis/__init__.py", "device_of"): "refuses a device that torch does not find",
    ("analysis/plan.py", "device_memory"): "how much memory CUDA says there is",
}


KINDS = ("cpu", "cuda", "mps", "xpu")


def asks_for_the_kind(node: ast.AST) -> bool:
    """`t.is_cuda`, `device.type == "cpu"`, `name.startswith("cuda")` and the like."""
    if isinstance(node, ast.Attribute):
        return node.attr in ("is_cuda", "is_cpu", "is_mps", "is_xpu")
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".startswith"):
        return any(isinstance(a, ast.Constant) and a.value in KINDS for a in node.args)
    if not isinstance(node, ast.Compare):
        return False
    within = list(ast.walk(node))
    kind = any(isinstance(n, ast.Attribute) and n.attr == "type" for n in within)
    return kind and any(isinstance(n, ast.Constant) and n.value in KINDS for n in within)


def kinds_asked_in(tree: Sequence[ast.AST], file: str) -> set[tuple[str, str]]:
    found = set()
    for node in tree:
        if asks_for_the_kind(node):
            around = [
                f
                for f in tree
                if isinstance(f, ast.FunctionDef) and f.lineno <= node.lineno <= (f.end_lineno or f.lineno)
            ]
            found.add((file, max(around, key=lambda f: f.lineno).name if around else ""))
    return found


@pytest.mark.parametrize(
    "line",
    ["if t.is_cuda: pass", "if t.device.type == 'cpu': pass", "x = 'cuda' in (device.type,) or device.type != 'cpu'",
     "if self.device.type in ('cuda', 'mps'): pass", "a = name.startswith('cuda')"],
)  # fmt: skip
def test_a_choice_by_the_kind_of_device_is_found(line):
    assert kinds_asked_in(list(ast.walk(ast.parse(f"def f():\n    {line}\n"))), "a.py") == {("a.py", "f")}


def test_one_function_chooses_between_cpu_and_accelerator():
    asked = {found for path in FILES for found in kinds_asked_in(nodes(path), str(path.relative_to(PACKAGE)))}
    assert asked - set(KIND_ASKED) == set(), "ask core.device.on_accelerator instead, which tests can turn"
    assert set(KIND_ASKED) - asked == set(), "no exception without a use"


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = {"torch", "pandas", "h5py", "matplotlib", "scipy", "plotly", "xarray", "lightning", "transformers"}
HELP = """
import sys
from click.testing import CliRunner
from infoplane.cli import main
words = [["--version"], *([*command, "--help"] for command in ([], *([name] for name in main.commands)))]
for line in words:
    assert CliRunner().invoke(main, line).exit_code == 0, line
"""


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import sys, infoplane", HEAVY | {"numpy", "click"}),
        ("import sys, infoplane; dir(infoplane); infoplane.__version__", HEAVY | {"numpy", "click"}),
        ("import sys, infoplane.cli", HEAVY | {"numpy"}),
        ("import runpy, sys; sys.argv = ['infoplane', '--help']\n"
         "try: runpy.run_module('infoplane', run_name='__main__')\nexcept SystemExit: pass", HEAVY | {"numpy"}),
        (HELP, HEAVY),
    ],
    ids=["import", "names", "command line", "python -m infoplane --help", "help of every command"],
)  # fmt: skip
def test_import_and_help_are_quick(code, absent):
    """A shell's completion and a script's import wait for nothing that takes a second to load."""
    said = run_python(f"{code}\nprint('loaded:', *({absent!r} & sys.modules.keys()))")
    assert said.splitlines()[-1] == "loaded:"


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in BLOCKED:
            raise ImportError(name + ' is blocked')
sys.meta_path.insert(0, Blocked())
"""


def test_plots_need_neither_torch_nor_h5py():
    run_python(
        "BLOCKED = {'torch', 'h5py'}" + BLOCK + "import infoplane.plots, infoplane.results; infoplane.ResultTable"
    )


def test_results_and_core_need_only_numpy_and_pandas():
    blocked = "BLOCKED = {'torch', 'h5py', 'matplotlib', 'scipy', 'plotly'}"
    run_python(blocked + BLOCK + "import infoplane.results, infoplane.core, infoplane.datasets")
    run_python(f"{blocked} | {{'pandas'}}" + BLOCK + "import infoplane.core, infoplane.datasets")


def test_top_level_names_are_all_reachable():
    for name in infoplane.__all__:
        assert getattr(infoplane, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'recorder'; available: "):
        _ = infoplane.recorder
