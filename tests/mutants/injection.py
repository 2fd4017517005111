# SPDX-License-Identifier: Apache-2.0
"""Importing confide with a change in its source, without touching a file."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tests.mutants.catalogue import Change


class NotApplicable(Exception):
    """The text that a mutant changes is not there, or not once: the catalogue must follow the source."""


class ChangedSource(importlib.machinery.SourceFileLoader):
    """Compiles a module from its changed source; the bytecode cache is neither read nor written."""

    changes: Sequence[Change] = ()

    def get_code(self, fullname: str) -> CodeType:
        """The code of the changed module."""
        text = Path(self.path).read_text(encoding="utf-8")
        for _, before, after in self.changes:
            if text.count(before) != 1:
                raise NotApplicable(f"{fullname} holds {text.count(before)} times: {before.strip()!r}")
            text = text.replace(before, after)
        return compile(text, self.path, "exec", dont_inherit=True)


class Injector(MetaPathFinder):
    """Put first into `sys.meta_path`, it changes what is imported.

    Attributes:
        applied: Names of the modules that were imported changed.
    """

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = changes
        self.applied: set[str] = set()
        self.failure = ""

    @property
    def wanted(self) -> set[str]:
        """Names of the modules that the mutant changes."""
        return {module for module, _, _ in self._changes}

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> Any:
        """The spec of a module that is to be changed; None for all others."""
        if name not in self.wanted:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        loader = ChangedSource(name, spec.origin)
        loader.changes = [change for change in self._changes if change[0] == name]
        try:
            loader.get_code(name)
        except NotApplicable as error:
            self.failure = str(error)
            raise
        self.applied.add(name)
        return importlib.util.spec_from_file_location(name, spec.origin, loader=loader)


def inject(changes: Sequence[Change]) -> Injector:
    """Change the modules when they are imported; none of them may be imported already."""
    injector = Injector(changes)
    early = injector.wanted & set(sys.modules)
    if early:
        raise NotApplicable(f"{min(early)} is imported already")
    sys.meta_path.insert(0, injector)
    return injector
