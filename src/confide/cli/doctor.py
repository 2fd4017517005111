# SPDX-License-Identifier: Apache-2.0
"""`confide doctor`: what this installation can do."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from confide.errors import LedgerError

PACKAGES = ("confide", "torch", "numpy", "scipy", "dp-accounting", "cryptography", "monai", "scikit-learn")
EXTRAS = {
    "dicom": ("pydicom", "nibabel"),
    "export": ("onnx", "onnxruntime"),
    "hardened": ("opendp",),
    "track": ("tensorboard",),
}


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def examine() -> dict[str, object]:
    """Versions, devices, entropy source and folders of this installation."""
    import torch

    from confide.data.catalog import data_folders
    from confide.privacy.ledger import default_path

    devices = [f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()} cores"]
    devices += [f"cuda:{i}, {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _installed(name) for name in PACKAGES},
        "extras": {name: all(_installed(p) for p in packages) for name, packages in EXTRAS.items()},
        "devices": devices,
        # os.urandom blocks until the kernel's generator is seeded, then never fails.
        "entropy": "operating system (os.urandom), 256-bit key a run, AES-256-CTR streams",
        "data_folders": [str(folder) for folder in data_folders()],
        "ledger": _ledger(default_path()),
    }


def _ledger(path: Path) -> str:
    """Where the ledger lies, and whether it may lie there."""
    from confide.privacy.ledger.places import refuse_shared_disk

    try:
        refuse_shared_disk(path.absolute())
    except LedgerError as error:
        return f"{path}: refused. {error.what}. {error.remedy}"
    return str(path) if path.exists() else f"{path} (made at the first private run)"


def command(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Versions, devices, entropy source."""
    found = examine()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
        elif isinstance(value, list):
            value = "\n".join(value)
        table.add_row(key.replace("_", " "), str(value))
    Console().print(table)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "missing" if value is None else str(value)
