"""The command line: argument parsing only. What a command does lives in the part it calls."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click import Choice, FloatRange, IntRange, argument, option
from click.shell_completion import CompletionItem

from infoplane import __version__


def stacked(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a decorator that adds several options to a command, shown in its help in this order."""

    def decorate(function: Any) -> Any:
        """Return the command with all options; help shows the one that was added last first."""
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


class Offered(click.types.StringParamType):
    """A text for which the shell offers `values(runs)`, `runs` being the run directories named on the line so far."""

    def __init__(self, values: Callable[[list[Path]], Iterable[str]], name: str = "text") -> None:
        """Set `name`, which stands in capitals behind the option in help."""
        self.values, self.name = values, name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the values that begin with `incomplete`, none where the runs cannot be read or are another user's."""
        from infoplane import store
        from infoplane.core.errors import StoreError

        # While the option that is completed has no value, click leaves the words behind it in `ctx.args`.
        named = [*(ctx.params.get("runs") or ()), ctx.params.get("run"), *ctx.args]
        runs = [Path(run) for run in named if run and Path(run).is_dir()]
        # Completion runs without the child process with limits of `reads_runs`, so it opens no run of another user.
        with contextlib.suppress(StoreError, ValueError, OSError):
            if not any(map(store.is_foreign, runs)):
                offered = dict.fromkeys(self.values(runs))  # each once
                return [CompletionItem(value) for value in offered if value.startswith(incomplete)]
        return []


def estimators_of(runs: list[Path]) -> Iterable[str]:
    """Return names of all estimators and presets, whichever runs are given."""
    from infoplane.estimators import available

    return available()


def layers_of(runs: list[Path]) -> Iterable[str]:
    """Return names of the layers of these runs."""
    from infoplane.store import open_run

    return [layer.key for run in runs for layer in open_run(run).layers]


def subsets_of(runs: list[Path]) -> Iterable[str]:
    """Return names of subsets of these runs: `all`, the parts of their probes, and `class=...` for each class."""
    from infoplane.store import open_run

    probes = [open_run(run).probe for run in runs]
    classed = [probe for probe in probes if probe.target == "discrete" and probe.positions is None]
    classes = sorted({int(y) for probe in classed for y in probe.labels})
    return ["all", *(name for probe in probes for name in probe.part_names), *(f"class={y}" for y in classes)]


def quantities_of(runs: list[Path]) -> Iterable[str]:
    """Return names of the quantities that were estimated on these runs."""
    from infoplane.results import read_table

    return list(read_table(runs)["quantity"])


def figures(runs: list[Path]) -> Iterable[str]:
    """Return the kinds of figure, whichever runs are given."""
    from infoplane.plots import FIGURES

    return FIGURES


PATH = click.Path(path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SPEC, LAYER = Offered(estimators_of, "spec"), Offered(layers_of, "glob")
SUBSET, NAME = Offered(subsets_of, "name"), Offered(quantities_of, "name")
PAIR, STYLES = Offered(layers_of, "layer,layer"), Offered(lambda runs: ["screen", "column", "page"])


def out_option(says: str = "File to write; its suffix is the format.", **settings: Any) -> Callable[[Any], Any]:
    """Return a decorator that adds the option -o, where the result is written; `says` is its help."""
    return option("-o", "--out", type=PATH, help=says, **settings)


RUN = argument("run", type=PATH)
RUNS = argument("runs", nargs=-1, required=True, type=PATH)
STYLE = option("--style", type=STYLES, help="Size and type: screen, column (85 mm) or page (170 mm).")
SIZE = stacked(STYLE, option("--width", type=FloatRange(20, 600), help="Width in millimetres."))
OUT = out_option()
LAYERS = option("-l", "--layer", "layers", multiple=True, type=LAYER, help="Only these layers.")
WORKERS = stacked(
    option("--device", help="cpu, cuda, cuda:1, ... [default: cuda where there is one]"),
    option("-j", "--jobs", type=IntRange(1), default=1, help="Processes."),
)
CHOICE = stacked(
    option("-e", "--estimator", type=SPEC, help="Which estimator, where the table has several."),
    LAYERS,
    option("-s", "--subset", type=SUBSET, help="all, train, test, class=3, ..."),
)
CHOSEN = ("estimator", "layers", "subset")
"""Parameter names of the options in `CHOICE`."""
CONTROL = option("--control", metavar="COLUMN", help="Also given this column, as n_weights.")
ASSOCIATION = stacked(
    option("--with", "target", metavar="COLUMN", help="Correlate every summary with this column, as gap."),
    CONTROL,
    option("--method", type=Choice(["spearman", "pearson", "kendall"]), help="[default: spearman]"),
    option("--summary", multiple=True, metavar="NAME", help="Only final, max, max_step, fall, fall_share, area."),
    option("--claim", type=Choice(["+", "-"]), help="In how many settings the correlation has this sign."),
    option("--within", multiple=True, metavar="NAME", help="A setting is one value of this hyper-parameter."),
    option("--each-run", is_flag=True, help="Take each run for itself, not the seeds of a configuration together."),
    option("--map", type=PATH, metavar="FILE", help="Figure of all correlations."),
    option("--scatter", type=PATH, metavar="FILE", help="Figure of the strongest."),
)
ESTIMATE = stacked(
    option("-e", "--estimator", "estimators", multiple=True, default=["binning"], type=SPEC),
    LAYERS,
    option("-s", "--subset", "subsets", multiple=True, default=["all"], type=SUBSET),
    WORKERS,
)
SHOWN = stacked(
    option("--against", type=Choice(["step", "epoch"]), help="The time that the figure shows."),
    option("--log/--linear", default=None, help="Steps on a logarithmic scale [default: over two decades]."),
    option("--title", help="A line above the figure."),
    option("--caption/--no-caption", default=None, help="What was measured, below it [default: shown]."),
)
DRAWN = stacked(OUT, CHOICE, SHOWN, SIZE)


QUANTITY = option("--quantity", multiple=True, type=NAME, help="I(X;T), I(T;Y), ...; again for a further panel.")
NAMED = option("--name", help="What figures and reports call the run [default: the name of its directory].")
OVERWRITE = option("--overwrite", is_flag=True, help="Replace the run that is there, if it was closed.")
JSON = option("--json", "as_json", is_flag=True, help="For machines.")
UNTRUSTED = stacked(
    option(
        "--untrusted/--trusted",
        default=None,
        help="Read in a child process with limits on memory and time [default: what belongs to another user].",
    ),
    option("--max-memory", type=FloatRange(0.25), metavar="GIB", help="Limit of that child [default: 2]."),
    option("--max-time", type=FloatRange(0), metavar="S", help="Its limit [default: grows with the runs]."),
)
ARGUMENTS = "infoplane.arguments"
"""Key in click's context of the words of the command line, for the same command again in a child process."""
HOUR = 3600.0
"""Seconds of an hour, for limits on time."""


def reads_runs(work_seconds: float = 0.0) -> Callable[[Any], Any]:
    """Return a decorator: a command starts itself again in a child process with limits if its runs are another user's.

    `work_seconds` is the time that the command may take beside reading the runs.
    """

    def decorate(function: Any) -> Any:
        """Return the command with the options of `UNTRUSTED`, which say whether it runs here or in a child."""

        @functools.wraps(function)
        def guarded(untrusted: bool | None, max_memory: float | None, max_time: float | None, **options: Any) -> Any:
            """Run the command here if it may read these runs itself, else again in a child with limits."""
            from infoplane import store
            from infoplane.core import limited

            in_child = limited.limits_of_this_process()  # None unless this process is that child already
            runs = options["runs"] if "runs" in options else (options["run"],)
            against = options.get("against")  # of `estimate`: it may be the path of a further run
            runs = (*runs, against) if against and Path(against).is_dir() else runs
            if in_child is not None:
                limited.take(in_child, address_space=on_cpu(options))  # CUDA needs more addresses than memory
            elif untrusted or (untrusted is None and any(map(store.is_foreign, runs))):
                memory = None if max_memory is None else int(max_memory * 2**30)
                limits = store.limits_for(runs, work_seconds=work_seconds, memory_bytes=memory, seconds=max_time)
                arguments = click.get_current_context().meta[ARGUMENTS]
                sys.exit(limited.run_again(arguments, limits, ", ".join(map(str, runs))))
            return function(**options)

        return UNTRUSTED(guarded)

    return decorate


def on_cpu(options: Mapping[str, Any]) -> bool:
    """Whether a command with these options computes on the CPU, as every command without the option --device does."""
    if "device" not in options:
        return True
    from infoplane.analysis import device_of

    return device_of(options["device"]) == "cpu"


@contextlib.contextmanager
def warnings_as(text: Callable[[object], str]) -> Iterator[None]:
    """Until the block ends, show each warning on stderr as `text(warning)`, without the line of code it arose at."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: text(message)
    try:
        yield
    finally:
        warnings.formatwarning = usual


class OneLineErrors(click.Group):
    """A group of commands that shows bad use and bad input as one line on stderr, with exit code 2.

    A warning is one line, too. An error in the program itself keeps its traceback.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words of the command line, for the same command again in a child, then let click read them."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and turn what it raises into one line and an exit code."""
        from infoplane.core import limited
        from infoplane.core.errors import StoreError
        from infoplane.core.text import printable

        def spoken(message: object) -> str:
            """The message in one printable line, with settings written as options of the command that was called."""
            line = printable(" ".join(str(message).split()))
            return in_options(line, self.get_command(ctx, ctx.invoked_subcommand or ""))

        try:
            with warnings_as(lambda warning: f"warning: {spoken(warning)}\n"):
                return super().invoke(ctx)
        except (StoreError, ValueError, TypeError, OSError) as error:
            if ctx.params.get("traceback"):
                raise
            notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
            raise click.ClickException(spoken(f"{words_of(error)}{notes}") or type(error).__name__) from error
        except (MemoryError, RuntimeError) as error:
            # In the child with limits the exit code tells its parent; anywhere else it is a bug, with its traceback.
            if limited.limits_of_this_process() is None or not limited.ran_out_of_memory(error):
                raise
            sys.exit(limited.OUT_OF_MEMORY)
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in ("estimate", "replay")  # which keep what is finished
            advice = "; what was finished is kept, the same command goes on from there" if resumable else ""
            click.echo(f"interrupted{advice}", err=True)
            sys.exit(130)  # as shells say of a command that Ctrl-C has ended: 128 + SIGINT


def words_of(error: Exception) -> str:
    """Return the message of an error; of an OSError the file and the reason, without the number of the error."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return str(error)


VALUE = r"\.\.\.|\[\.\.\.\]|\[(?:[^\[\]]|\[[^\]]*\])*\]|'[^']*'|\"[^\"]*\"|[\w*]*"
"""What may stand after `name=` in an error: ..., a list, a text, a word."""


def in_options(text: str, command: click.Command | None) -> str:
    """Return an error message with settings as options: `choose with run='a'` becomes `choose with --run a`."""
    options = {p.name: p for p in (command.params if command else ()) if isinstance(p, click.Option)}
    spelled = {name: option.opts[-1] for name, option in options.items()}  # the last spelling is the long one
    if "estimator" in spelled:
        spelled["settings"] = "--estimator NAME:SETTING=VALUE"

    def as_option(found: re.Match[str]) -> str:
        """Return the option that a match `name=value` stands for: a list repeats it, False gives a flag's opposite."""
        name, value = found.groups()
        if name in options and options[name].is_flag:
            return str(((value == "False" and options[name].secondary_opts) or options[name].opts)[-1])
        words = re.findall(r"'([^']*)'", value) if value[:1] in "['" else [value]
        return " ".join(f"{spelled[name]} {word}".rstrip(" .") for word in words or [""])

    names = "|".join(name for name in spelled if name)
    # A name within a path or a longer word is no setting.
    return re.sub(rf"(?<![\w/\\.-])({names})=({VALUE})", as_option, text) if names else text


# Click itself has 2 for bad use and 1 for other errors: here 1 is the answer of `verify` that something is wrong.
click.ClickException.exit_code = 2


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given a value: without those that click has set to None, or to () for several."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def end(losses: Sequence[object], *, said: bool = False) -> None:
    """Exit with code 3 if there are `losses`, what is missing or damaged in the runs; else do nothing.

    The first of them are named on stderr, unless they were `said` before.
    """
    from infoplane.core.text import first_lines

    if losses:
        named = first_lines([f"missing or damaged: {loss}" for loss in losses], "{} more are missing or damaged")
        click.echo("\n".join([*([] if said else named), "done, but not of all that was recorded"]), err=True)
        sys.exit(3)


CONTEXT: Any = {"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True}


@click.group(cls=OneLineErrors, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="infoplane")
@option("--traceback", is_flag=True, help="Show where an error came from.")
@option("-q", "--quiet", is_flag=True, help="No progress bars.")
@click.pass_context
def main(ctx: click.Context, traceback: bool, quiet: bool) -> None:
    """Information planes of neural networks: what each layer knows about its input and its label.

    \b
    infoplane demo                                train, record, estimate and draw, in about a minute
    infoplane estimate runs/a -e binning          estimate on recorded activations
    infoplane plot runs/a -o plane.pdf            draw the information plane

    \b
    Exit codes:
      0        done
      1        verify has found something wrong
      2        bad use or bad input; nothing was done
      3        done, but something that had been recorded is missing or damaged: it is named on stderr, in
               captions and in reports, and the numbers are of the rest
      130, 143 stopped by Ctrl-C, by SIGTERM
    A layer that the model did not call, or that an estimator refuses with its reason, is named and no failure.
    """
    ctx.obj = not quiet  # whether commands show their progress


def command(example: str, **settings: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that makes a function a command of `main`, with an example at the end of its help."""
    return main.command(epilog=f"Example: {example}", **settings)


@command("infoplane demo --data digits --out demo-digits")
@option("--data", type=Choice(["twelve-bit", "digits"]), default="twelve-bit")
@option("--out", type=PATH, help="Folder to write into [default: demo/DATA, numbered if it exists].")
@option("--epochs", type=IntRange(1), help="Fewer epochs for a quick look.")
@option("--seed", type=int, default=0)
@click.pass_obj
def demo(progress: bool, /, data: str, out: Path | None, **settings: Any) -> None:
    """Train a small network, record it, estimate its information plane, draw it, and say what to doubt."""
    from infoplane import demo as demos

    out = out or demos.free_folder(Path("demo") / data)
    demos.show(data, out, progress=progress, echo=click.echo, **settings)


@command("infoplane info runs/digits")
@RUN
@JSON
@reads_runs()
def info(run: Path, as_json: bool) -> None:
    """What a run holds: layers, steps, probe, metrics, problems."""
    from infoplane import store

    summary = store.summarize(store.open_run(run))
    click.echo(json.dumps(summary.to_json(), indent=2) if as_json else summary)
    end(summary.to_json()["lost_steps"], said=True)


@command("infoplane verify runs/digits")
@RUN
@JSON
@reads_runs()
def verify(run: Path, as_json: bool) -> None:
    """Read every byte of a run and check it; exit code 1 when something is wrong.

    A layer that the model did not call at a step is a note, with which a run is clean.
    """
    from infoplane import store

    problems = store.open_run(run).verify()
    wrong = sum(not problem.note for problem in problems)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in problems], indent=2))
    else:
        click.echo("\n".join([*map(str, problems), f"{run}: {f'{wrong} problems' if wrong else 'clean'}"]))
    sys.exit(1 if wrong else 0)


@command("infoplane estimate runs/digits -e binning:n_bins=30 -e kde")
@RUNS
@ESTIMATE
@option("--pairs", multiple=True, type=PAIR, help="I(T;T') of two layers instead; again for further pairs.")
@option(
    "--against",
    type=Offered(lambda runs: ["previous", "view=2"], "what"),
    help="The second layer of a pair at the step before (previous), on the second row of an input (view=2), or of "
    "another run (its path).",
)
@option("-t", "--table", type=PATH, help="One CSV for all [default: results.csv of each run].")
@reads_runs(24 * HOUR)
@click.pass_obj
def estimate(progress: bool, /, runs: tuple[Path, ...], table: Path | None, **asked: Any) -> None:
    """Estimate information quantities on recorded activations; what is done already is not done again."""
    from infoplane.analysis import analyze_each
    from infoplane.results.losses import losses
    from infoplane.results.overview import overview

    asked["pairs"] = tuple(tuple(pair.split(",")) for pair in asked["pairs"])
    distinct = list({run.absolute(): run for run in runs}.values())
    lost = []
    done = analyze_each(distinct, table=table, progress=progress, **given(asked))
    for run, rows in zip(distinct, done, strict=True):
        click.echo(f"{table or run / 'results.csv'}: {len(rows)} rows\n\n{overview(rows)}")
        lost += losses(rows)
    end(lost, said=True)


@command("infoplane advise runs/digits -e noise")
@RUN
@option("-e", "--estimator", "estimators", multiple=True, default=["binning", "kde", "noise"], type=SPEC)
@LAYERS
@option("-s", "--subset", default="all", type=SUBSET)
@WORKERS
@JSON
@reads_runs(HOUR)
@click.pass_obj
def advise(progress: bool, /, run: Path, as_json: bool, **asked: Any) -> None:
    """Find the bins or the noise at which the layers show something, and keep the advice in results.json."""
    from infoplane.analysis import advise

    found = advise(run, progress=progress, **given(asked))
    click.echo(json.dumps(asdict(found)) if as_json else found)


@command("infoplane plot runs/digits -k plane -o plane.pdf")
@RUNS
@option("-k", "--kind", default="plane", type=Offered(figures), help="Which figure; 'list' names them.")
@DRAWN
@option("--run", metavar="NAME", help="Which run, where there are several.")
@option(
    "--by",
    type=Choice(["step", "layer", "estimator", "run", "subset", "settings"]),
    help="plane: a line for each step or layer; plane_grid: what panels differ in.",
)
@QUANTITY
@option("--metrics", is_flag=True, default=None, help="curves: loss and accuracy below.")
@option("--format", type=Choice(["png", "svg", "pdf"]), help="Where the suffix does not name it.")
@option("--dpi", type=IntRange(30, 1200), default=200)
@reads_runs(HOUR)
def plot(runs: tuple[Path, ...], kind: str, out: Path | None, **options: Any) -> None:
    """Draw a figure from the results of one or several runs."""
    from infoplane.plots.figures import FIGURES, draw_file
    from infoplane.results.losses import read_losses

    if kind == "list":
        click.echo("\n".join(FIGURES))
        return
    click.echo(draw_file(runs, kind, out or Path(f"{kind}.png"), **options))
    end(read_losses(runs))


@command("infoplane compare runs/seed-0 runs/seed-1 runs/seed-2 -o seeds.pdf")
@RUNS
@DRAWN
@QUANTITY
@option("--dpi", type=IntRange(30, 1200), default=200)
@reads_runs(HOUR)
def compare(runs: tuple[Path, ...], out: Path | None, dpi: int, **options: Any) -> None:
    """Mean and spread over several runs: the figure, and the values at the last common step."""
    from infoplane.plots.figures import draw_file
    from infoplane.results import read_table, summary, views
    from infoplane.results.losses import read_losses

    # The values that are printed come from the rows that the figure draws.
    which, quantity = (given({name: options[name] for name in names}) for names in (CHOSEN, ["quantity"]))
    series = views.choose(read_table(runs), several_runs=True, shows=options["quantity"], **which)
    for one in summary.summarize(series.table, subset=series.subset, **quantity):
        click.echo(one)
    click.echo(draw_file(runs, "compare", out or Path("compare.png"), dpi=dpi, **options))
    end(read_losses(runs))


@command("infoplane study runs/* -o study.csv", name="study")
@RUNS
@out_option("CSV to write: a row a run.")
@option(
    "--by",
    type=Choice(["name", "depth", "role"]),
    default="name",
    help="Which layers of different runs share columns: by name, by place from the end, of all or of their role.",
)
@option("--at", type=Choice(["final", "best"]), default="final", help="The moment of the gap.")
@option("--gap", nargs=2, metavar="HELD-OUT TRAIN", help="The two metrics whose difference is the gap.")
@CHOICE
@option("--quantity", multiple=True, type=NAME)
@ASSOCIATION
@STYLE
@reads_runs(HOUR)
def study_runs(runs: tuple[Path, ...], out: Path | None, **options: Any) -> None:
    """Many runs as one frame: hyper-parameters, metrics, generalisation gap, and what each curve comes to.

    With --with, every summary is correlated with a column: interval over configurations, p by permutation, and p
    adjusted for all columns that were tried.
    """
    from infoplane.results.losses import read_losses
    from infoplane.studies import study

    found = study(runs, **given({name: options.pop(name) for name in ("by", "at", "gap", *CHOSEN, "quantity")}))
    click.echo(found)
    if out is not None:
        click.echo(f"{found.write(out)}: {len(found)} rows")
    associate(found, **options)
    end(read_losses(runs))


def associate(
    study: Any, target: str | None, claim: str | None, within: tuple[str, ...], style: str | None, **options: Any
) -> None:
    """Print and draw correlations with a column of a study; with `claim`, in how many settings their sign holds."""
    from infoplane import plots

    figures = {plots.association: options.pop("map"), plots.association_scatter: options.pop("scatter")}
    # By default runs that differ in their seed alone count as one configuration; `repetitions=None` turns that off.
    how = ({"repetitions": None} if options.pop("each_run") else {}) | given(options)
    if claim is not None:
        click.echo(f"\n{study.claim(claim, target or 'gap', within=within, **how)}")
    if target is not None or any(figures.values()):
        found = study.association(target or "gap", **how)
        click.echo(f"\n{found}")
        for draw, path in figures.items():
            if path is not None:
                click.echo(plots.save(draw(found, style=style or "screen"), path, title="Association"))


@command("infoplane animate runs/digits -o plane.gif")
@RUN
@DRAWN
@option("--fps", type=FloatRange(0.5, 60), default=12)
@option("--dpi", type=IntRange(30, 600), default=110)
@reads_runs(HOUR)
def animate(run: Path, out: Path | None, **options: Any) -> None:
    """The plane over training, with loss and accuracy below: GIF, WebP, APNG, or MP4 where ffmpeg is found."""
    from infoplane import plots
    from infoplane.results import read_table
    from infoplane.results.losses import read_losses

    click.echo(plots.animate(read_table(run), out or "plane.gif", **given(options)))
    end(read_losses([run]))


@command("infoplane report runs/digits -o report.html")
@RUNS
@OUT
@option("--title", default="Information plane")
@option("--with", "target", metavar="COLUMN", help="Of many runs: what goes with this column [default: gap].")
@CONTROL
@reads_runs(HOUR)
def report(runs: tuple[Path, ...], **options: Any) -> None:
    """One self-contained page to explore in a browser, offline: warnings first, then plane, curves and settings."""
    from infoplane.report import write_report
    from infoplane.results.losses import read_losses

    click.echo(write_report(runs, **given(options)))
    end(read_losses(runs))


@command("infoplane watch runs/digits -e binning:n_bins=30")
@RUN
@ESTIMATE
@option("--port", type=IntRange(0, 65535), default=0, show_default=False, help="Of 127.0.0.1 [default: a free one].")
@option("--every", type=FloatRange(0.2), default=5, help="Seconds between two looks.")
@reads_runs(24 * HOUR)
def watch(run: Path, **asked: Any) -> None:
    """The report of a run that is being recorded, made anew as it grows, in a browser on this machine alone.

    The address that it prints holds a token: who has it may read the page. Nothing is written into the run, and what
    was estimated goes with the page; `infoplane estimate` keeps it.
    """
    from infoplane import _watch

    _watch.watch(run, echo=click.echo, **given(asked))


@command("infoplane estimators binning")
@argument("name", required=False)
def estimators(name: str | None) -> None:
    """List the estimators with their settings, or show one estimator's page."""
    from infoplane.estimators import describe

    click.echo(describe(name))


@command("infoplane certify binning adaptive")
@argument("names", nargs=-1, metavar="[SPEC]...")
@option("--markdown", is_flag=True, help="As a table for a document.")
def certify(markdown: bool, names: tuple[str, ...]) -> None:
    """Print what must hold of an information, and whether it does, for every estimator."""
    from infoplane import certify as certificates

    findings = certificates.certify(names) + ([] if names else [certificates.sandwich()]) + certificates.known(names)
    click.echo((certificates.to_markdown if markdown else certificates.to_text)(findings))


def by_layer(ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    """Return {layer: role} from words LAYER=ROLE, for click to call; BadParameter for a word of another form."""
    # `rpartition` gives an empty text for a part that is missing.
    wrong = next((word for word in given if not all(word.rpartition("="))), None)
    if wrong is not None:
        raise click.BadParameter(f"expected LAYER=ROLE, as in 'fc*=activation', got {wrong!r}")
    return {layer: role for layer, _, role in (word.rpartition("=") for word in given)}


def names(ctx: click.Context, parameter: click.Parameter, given: str | None) -> Path | list[str]:
    """Return the path of a file if it exists, else the words between commas, for click to call; [] without any."""
    return Path(given) if given and Path(given).is_file() else given.split(",") if given else []


@command("infoplane import step-*.npz --labels y.npy -o runs/theirs", name="import")
@argument("files", nargs=-1, required=True, type=FILE)
@out_option("Run directory to make.", required=True)
@NAMED
@option("--labels", type=FILE, help="File with one array, if not in FILES.")
@option("--classes", is_flag=True, help="Labels that are whole numbers stored as floats are classes.")
@option("--label-names", callback=names, metavar="NAMES|FILE", help="Of class 0, 1, ...: cat,dog, or a line each.")
@option("--parts", type=FILE, help="The part of each row (train, test): text lines, or one array.")
@option(
    "--role", "roles", multiple=True, callback=by_layer, metavar="LAYER=ROLE", help="activation, output, input, other."
)
@option("--metrics", type=FILE, help="CSV with a column step, or JSON {step: {name: number}}.")
@option("--chain", is_flag=True, help="Each layer is computed from the one before alone.")
@OVERWRITE
def import_files(files: tuple[Path, ...], out: Path, **options: Any) -> None:
    """Make a run of activations saved by other means: .npz, .npy, .safetensors, .pt (weights only), .h5, .mat."""
    from infoplane import importers, store

    click.echo(store.summarize(importers.from_files(out, files, **options)))


@command("infoplane replay train.py:make checkpoints/step-*.pt -o runs/replayed")
@argument("factory", metavar="MODULE:FACTORY")
@argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@out_option("Run directory to make or go on with.", required=True)
@NAMED
@LAYERS
@option("--every", "schedule", type=IntRange(1), help="Record every n-th step [default: each checkpoint].")
@option("--key", help="The entry of a checkpoint with the weights, where it has several.")
@option("--ignore", multiple=True, metavar="GLOB", help="Weights that the model need not have.")
@option("--device", help="cpu, cuda, cuda:1, ... [default: where the factory puts the model]")
@OVERWRITE
@click.pass_obj
def replay(progress: bool, /, factory: str, checkpoints: tuple[Path, ...], out: Path, **asked: Any) -> None:
    """Record a model at each of its saved checkpoints, as if it had been recorded while it trained.

    MODULE:FACTORY is a function of your own, in an importable module or as train.py:make, which returns (model, probe)
    or (model, probe, options), with probe and options as Recorder takes them. Checkpoints are files of torch.save, of
    safetensors, or folders as Hugging Face saves models; only weights are loaded from them, nothing in them is
    executed. Their names tell the steps. What has been recorded already is not recorded again.
    """
    from infoplane.hooks.factory import from_factory
    from infoplane.hooks.replay import replay

    model, probe, options = from_factory(factory)
    asked = given(asked)
    model = model.to(asked.pop("device")) if "device" in asked else model
    done = replay(model, probe, out, checkpoints, **{"progress": progress, "quiet": True, **options, **asked})
    click.echo(done)
    end(done.lost, said=True)


@command("infoplane unpack acts.mat FOLDER", hidden=True)
@argument("file", type=PATH)
@argument("folder", type=PATH)
def unpack(file: Path, folder: Path) -> None:
    """The part of import that reads HDF5 and MATLAB files, in the child with limits that import starts."""
    from infoplane import store

    click.echo(json.dumps(store.unpack(file, folder)))


@command("infoplane export runs/digits -o digits.csv")
@RUNS
@out_option("CSV file to write.", required=True)
@reads_runs(HOUR)
def export(runs: tuple[Path, ...], out: Path) -> None:
    """Write the results of one or several runs as one table, with its meta beside it."""
    from infoplane.results import read_table
    from infoplane.results.losses import losses

    table = read_table(runs)
    table.write(out)
    click.echo(f"{out}: {len(table)} rows")
    end(losses(table))
