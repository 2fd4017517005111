# SPDX-License-Identifier: Apache-2.0
"""Every error that confide raises on purpose.

```
ConfideError                      exit code 1: it failed
├── InputError                    exit code 2: what the user gave cannot be used
│   ├── ConfigError               an experiment file or a command-line value
│   ├── PlanError                 privacy parameters that no mechanism can have
│   ├── DataError                 a file, an array, a label
│   ├── ModelError                a model that cannot be trained privately
│   │   ├── UnsupportedLayerError     ... because of one of its layers
│   │   └── LossError                 ... because of what its loss returns
│   ├── RunError                  a run folder that is damaged, foreign or unfinished
│   └── MissingExtraError         an optional dependency that is not installed
├── BudgetExhaustedError          exit code 3: the privacy budget does not allow it
├── LedgerError                   the ledger cannot be read, written or trusted
└── CheckpointError               a checkpoint cannot be read, written or trusted
```

A message says what happened, where, why, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class ConfideError(Exception):
    """Base of all errors raised on purpose.

    Args:
        what: What happened, as one sentence. It may hold the whole message.
        where: The file, layer, key or row it happened at.
        why: The reason.
        remedy: What the reader can do now.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.remedy = remedy

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}" if self.where else self.what]
        lines += [text for text in (self.why, self.remedy) if text]
        return " ".join(line if line.endswith((".", "?", "!", ")")) else f"{line}." for line in lines)


class InputError(ConfideError):
    """What the user gave cannot be used."""

    exit_code: ClassVar[int] = 2


class ConfigError(InputError):
    """An experiment file or a command-line value is wrong."""


class PlanError(InputError):
    """Privacy parameters that no mechanism can have."""


class DataError(InputError):
    """A file, an array or a label cannot be used."""


class ModelError(InputError):
    """A model cannot be trained privately."""


class UnsupportedLayerError(ModelError):
    """A layer has no per-sample gradient, for example because it mixes the samples of a batch."""


class LossError(ModelError):
    """A loss does not return one finite-shaped value per sample."""


class RunError(InputError):
    """A run folder is damaged, foreign or unfinished."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed",
            remedy=f"Install it with: pip install 'confide[{extra}]'",
        )


class BudgetExhaustedError(ConfideError):
    """The privacy budget does not allow the next step."""

    exit_code: ClassVar[int] = 3


class LedgerError(ConfideError):
    """The ledger cannot be read, written or trusted."""


class CheckpointError(ConfideError):
    """A checkpoint cannot be read, written or trusted."""
