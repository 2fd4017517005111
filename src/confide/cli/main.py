# SPDX-License-Identifier: Apache-2.0
"""The `confide` command: one module a command, imported only when its command runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import typer

from confide.errors import ConfideError

# name -> (module, one-line help). The module holds `app` (a typer.Typer) or `command` (a function).
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("confide.cli.doctor", "Versions, devices, entropy source."),
    "plan": ("confide.cli.plan", "What a training schedule costs in privacy, or the noise a budget needs."),
    "data": ("confide.cli.data", "Which data sets there are, and what is in them."),
    "inspect": ("confide.cli.inspect", "What keeps a model from being trained privately, and the remedy."),
    "equivariance": ("confide.cli.equivariance", "How exactly a steerable network follows its group."),
    "train": ("confide.cli.train", "Train a model from an experiment file."),
    "report": ("confide.cli.report", "One self-contained HTML page for one or several runs."),
    "predict": ("confide.cli.predict", "Classify images with a trained run."),
    "export": ("confide.cli.export", "Write a trained model for use elsewhere."),
    "track": ("confide.cli.track", "Send the curves of a run to TensorBoard or MLflow."),
    "audit": ("confide.cli.audit", "Empirical lower bound on ε against what a run claims."),
    "perturb": ("confide.cli.perturb", "Make a local-DP copy of a data set."),
    "sweep": ("confide.cli.sweep", "Run a grid of experiments, resumable cell by cell."),
    "reproduce": ("confide.cli.reproduce", "Run a published table or figure again."),
    "ledger": ("confide.cli.ledger", "What was spent on which data set, by which run."),
}


def _stub(name: str, text: str) -> Callable[[], None]:
    """A command that exists for `--help` only: its module is not imported."""

    def command() -> None:
        raise ConfideError(f"the command {name} was not loaded")

    command.__doc__ = text
    return command


def _version(value: bool) -> None:
    if value:
        from confide import __version__

        typer.echo(f"confide {__version__}")
        raise typer.Exit


def build_app(arguments: Sequence[str]) -> typer.Typer:
    """The command line for these arguments: the named command in full, the others by name and help."""
    app = typer.Typer(
        help="Differentially private deep learning on medical images.",
        no_args_is_help=True,
        # A traceback that prints local variables would print patients' data.
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def main(  # pyright: ignore[reportUnusedFunction]
        version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        pass

    asked = next((word for word in arguments if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        if name != asked:
            app.command(name, help=text)(_stub(name, text))
            continue
        loaded = import_module(module)
        if "app" in vars(loaded):
            app.add_typer(loaded.app, name=name, help=text)
        else:
            app.command(name)(loaded.command)
    return app


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors raised on purpose end with their exit code and no traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        build_app(words)(words, prog_name="confide")
    except ConfideError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(1) from None
