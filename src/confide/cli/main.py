# SPDX-License-Identifier: Apache-2.0
"""The `confide` command: one module a command, imported only when its command runs."""

from __future__ import annotations

import sys
from importlib import import_module

import typer
from typer.core import TyperGroup

from confide.errors import ConfideError, LedgerError

# name -> (module, one-line help). The module holds `command` (a function) or `app` (a typer.Typer).
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("confide.cli.doctor", "Versions, devices, entropy source."),
    "plan": ("confide.cli.plan", "What a training schedule costs in privacy, or the noise a budget needs."),
    "data": ("confide.cli.data", "Which data sets there are, and what is in them."),
    "inspect": ("confide.cli.inspect", "What keeps a model from being trained privately, and the remedy."),
    "train": ("confide.cli.train", "Train a model from an experiment file."),
    "report": ("confide.cli.report", "One self-contained HTML page for one or several runs."),
    "predict": ("confide.cli.predict", "Classify images with a trained run."),
    "export": ("confide.cli.export", "Write a trained model for use elsewhere."),
    "perturb": ("confide.cli.perturb", "Make a local-DP copy of a data set."),
    "ledger": ("confide.cli.ledger", "What was spent on which data set, by which run."),
}
