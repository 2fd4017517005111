# SPDX-License-Identifier: Apache-2.0
"""The frame of the command line: quick, and never a traceback for what a user did wrong."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import confide
from confide.cli.main import COMMANDS, run

HEAVY = ("torch", "scipy", "matplotlib", "monai", "dp_accounting", "sklearn", "pydantic")


def loaded_after(code: str) -> set[str]:
    """Which heavy packages a fresh interpreter has imported after running some code."""
    report = f"{code}\nimport sys; print('LOADED', *[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_import_and_help_load_nothing_heavy() -> None:
    assert loaded_after("import confide") == set()
    helped = "from confide.cli.main import run\ntry: run(['--help'])\nexcept SystemExit: pass"
    assert loaded_after(helped) == set()


def test_every_public_name_is_there() -> None:
    for name in confide.__all__:
        assert getattr(confide, name) is not None
    assert set(confide.__all__) <= set(dir(confide))
    with pytest.raises(AttributeError):
        _ = confide.nothing_of_this_name  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run([name, "--help"])
    assert ended.value.code in (0, None)
    assert "Usage" in capsys.readouterr().out


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "code"), [(["nonsense"], 2), (["plan", "--unit"], 2), (["--version"], 0)]
)
def test_exit_codes(arguments: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert (ended.value.code or 0) == code


def test_a_closed_pipe_is_no_crash() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", "from confide.cli.main import run; run(['data', 'list'])"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
