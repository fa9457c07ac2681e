"""The command line: ``gnfast study``, ``gnfast width``, ``gnfast paper``, ``gnfast cond``, ``gnfast info``."""

# The commands live inside build_app, so that typer is imported only when the command line runs. typer reads their
# annotations, which works there only if they are evaluated in place: no "from __future__ import annotations".
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gnfast as gn
from gnfast import _extras, data_files
from gnfast.paper import commands as paper_command
from gnfast.study import commands as study_commands
from gnfast.study import width_command

if TYPE_CHECKING:
    import typer
    from rich.console import Console

BAD_INPUT = 2


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: the words after the program's name; those of this process by default.

    Returns:
        0; 1 if points of a study failed; 2 for bad input, told in one sentence; 130 if interrupted.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"gnfast: warning: {message}", file=sys.stderr)
            build_app()(arguments, prog_name="gnfast")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except (TypeError, ValueError, OSError, MemoryError, ImportError) as error:
        print(f"gnfast: {_sentence(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return study_commands.INTERRUPTED
    return 0


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{str(error.filename)!r}: {error.strerror}"
    return str(error) or type(error).__name__


def build_app() -> "typer.Typer":
    """Return the commands and their options.

    Raises:
        ImportError: typer or rich is not installed.
    """
    try:
        import typer
        from rich.console import Console
    except ImportError:
        raise ImportError(
            f"the command line needs typer and rich; install them with: {_extras.install('study')}"
        ) from None
    # Plain messages on the error stream instead of panels, and errors left to main.
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        no_args_is_help=True,
    )
    console = Console()

    def version(asked: bool) -> None:
        if asked:
            typer.echo(f"gnfast {gn.__version__}")
            raise typer.Exit

    @app.callback()
    def of_all_commands(
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=version, is_eager=True)
        ] = False,
    ) -> None:
        """Condition numbers and bounds of the Gauss-Newton matrices of wide neural networks."""

    app.add_typer(study_commands.build(console), name="study")
    width_command.add(app, console)
    paper_command.add(app, console)

    @app.command()
    def cond(
        data: Annotated[
            str,
            typer.Option(
                metavar="FILE|digits|mnist", help="The inputs (n, d), one sample a row: .npy, .npz, .csv or .parquet."
            ),
        ],
        widths: Annotated[str | None, typer.Option(metavar="D,M,..,K", help="A random network: 64,1024,10.")] = None,
        weights: Annotated[Path | None, typer.Option(metavar="FILE", help="Or a network saved by gnfast.")] = None,
        activation: Annotated[
            str | None, typer.Option(metavar="NAME", help="Between the layers; default relu.")
        ] = None,
        slope: Annotated[float | None, typer.Option(help="Negative slope of leaky_relu; default 0.01.")] = None,
        skip: Annotated[float | None, typer.Option(help="Strength of the skip connections; default 0.")] = None,
        bias: Annotated[bool | None, typer.Option("--bias", help="Give the layers biases.")] = None,
        init: Annotated[
            str | None, typer.Option(metavar="NAME", help="Initialisation; default kaiming_normal.")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of the weights; default 0.")] = None,
        dtype: Annotated[str | None, typer.Option(metavar="NAME", help="float64 (default) or float32.")] = None,
        loss: Annotated[
            str, typer.Option(metavar="NAME", help="mse, cross_entropy, binary_cross_entropy or poisson.")
        ] = "mse",
        samples: Annotated[int | None, typer.Option(help="Rows taken, spread evenly; default all.")] = None,
        whiten: Annotated[bool, typer.Option("--whiten", help="Whiten the data first.")] = False,
        certify: Annotated[bool, typer.Option("--certify", help="Prove the ends of the interval.")] = False,
    ) -> None:
        """The condition number of the Gauss-Newton matrix of one network, with its interval and bounds."""
        options = dict(activation=activation, slope=slope, skip=skip, bias=bias, init=init, seed=seed, dtype=dtype)
        net = _network(widths, weights, {name: value for name, value in options.items() if value is not None})
        X = gn.datasets.load(data, samples)
        if dtype is not None or weights is not None or X.dtype.kind == "f":
            X = data_files.cast(X, net.dtype.name, f"data {data!r}")
        elif X.dtype.kind in "iub":
            raise TypeError(
                f"data {data!r} have dtype {X.dtype.name} but must be float32 or float64; say --dtype {net.dtype.name} "
                "to convert them"
            )
        _cond(console, gn.GaussNewton(net, gn.datasets.whiten(X) if whiten else X, loss=loss), certify)

    @app.command()
    def info() -> None:
        """How this gnfast was built and what it runs on."""
        _list(console, gn.build_info().items())

    return app


def _network(widths: str | None, weights: Path | None, options: dict[str, Any]) -> gn.Network:
    if "slope" in options and options.get("activation") != "leaky_relu":
        raise ValueError("--slope is of leaky_relu alone; leave it out, or say --activation leaky_relu")
    if widths is not None and weights is None:
        try:
            sizes = [int(width) for width in widths.split(",")]
        except ValueError:
            raise ValueError(f"--widths is {widths!r} but must be whole numbers with commas, like 64,1024,10") from None
        return gn.mlp(sizes, **options)
    if widths is None and weights is not None:
        if options:
            raise ValueError(
                f"--weights holds the whole network; leave out {', '.join('--' + name for name in options)}"
            )
        return gn.load(weights)
    raise ValueError("the network must be given either as --widths 64,1024,10 or as --weights FILE")


def _cond(console: "Console", G: gn.GaussNewton, certify: bool) -> None:
    found = gn.cond(G, certify=certify)
    with warnings.catch_warnings(action="ignore", category=gn.bounds.NoBoundWarning):  # told in the table
        applying = gn.bounds.all(G.net, G.X, G.loss)
    bounds = [(bound.name, f"{bound.value:.8g}  {bound.statement}") for bound in applying]
    if not bounds:
        bounds = [("bounds", f"none applies: {applying.reason}")]
    singular = "" if found.rank == found.dimension else "; kappa(G) is over the non-zero eigenvalues"
    _list(
        console,
        [
            ("network", repr(G.net).partition("\n")[0]),
            ("data", f"{G.X.shape[0]:,} samples of {G.X.shape[1]:,} features"),
            ("kappa(G)", f"{found.value:.8g}"),
            ("interval", f"[{found.lower:.8g}, {found.upper:.8g}]"),
            ("lower end", "Ritz values, which lie inside the spectrum"),
            ("upper end", found.upper_from),
            ("lambda max", f"{found.lambda_max:.8g}"),
            ("lambda min", f"{found.lambda_min:.8g}"),
            ("rank", f"{found.rank:,} of {found.dimension:,}{singular}"),
            ("space", found.space),
            ("method", f"{found.method}; {found.products} products, {found.seconds:.2f} s"),
            *(("note", note) for note in found.notes),
            *bounds,
        ],
    )


def _list(console: "Console", rows: Iterable[tuple[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in rows:
        table.add_row(Text(name, "bold"), Text(str(value)))
    console.print(table)
