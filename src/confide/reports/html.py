# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page for a run, or for several."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confide import __version__
from confide.errors import RunError

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("confide.reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: str, view: dict[str, Any], made: datetime | None) -> str:
    """A page as text.

    Args:
        template: A file of `templates/`.
        view: What it shows.
        made: Date of the page, for its footer; None leaves it out.
    """
    from markupsafe import Markup

    environment = _environment()

    def raw(name: str) -> Markup:
        # Our own style and script, read from the package: nothing of a run is in them.
        return (
            Markup(environment.loader.get_source(environment, name)[0]) if environment.loader else Markup("")
        )

    return environment.get_template(template).render(
        **view,
        css=raw("style.css"),
        script=raw("page.js"),
        version=__version__,
        made=f"{made:%d %B %Y}" if made is not None else "",
    )


def write_text(path: Path, text: str) -> Path:
    """Write a file in one piece.

    Raises:
        RunError: If the folder cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise RunError(
            "cannot be written",
            where=str(path),
            why=error.strerror or str(error),
            remedy="Choose another --out.",
        ) from None
    return path
