# SPDX-License-Identifier: Apache-2.0
"""Differentially private deep learning on medical images.

The names below are the public interface. They load on first use, so that `import confide` and
`confide --help` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confide.errors import BudgetExhaustedError, ConfideError, InputError
    from confide.experiments.config import Experiment
    from confide.experiments.run import fit
    from confide.gradients.engine import ClippedGradient, clipped_gradient
    from confide.gradients.reference import per_sample_gradients
    from confide.gradients.rules import rule
    from confide.mechanisms.clipping import (
        AdaptiveClipping,
        AutomaticClipping,
        FlatClipping,
        PerLayerClipping,
    )
    from confide.privacy.ledger import Ledger
    from confide.privacy.plan import Guarantee, PrivacyPlan
    from confide.privacy.units import Adjacency, PrivacyUnit
    from confide.surgery.inspect import inspect
    from confide.surgery.repair import repair
    from confide.training.step import private_steps

__version__ = "0.1.0"

_HOMES = {
    "AdaptiveClipping": "confide.mechanisms.clipping",
    "Adjacency": "confide.privacy.units",
    "AutomaticClipping": "confide.mechanisms.clipping",
    "BudgetExhaustedError": "confide.errors",
    "ClippedGradient": "confide.gradients.engine",
    "ConfideError": "confide.errors",
    "Experiment": "confide.experiments.config",
    "FlatClipping": "confide.mechanisms.clipping",
    "Guarantee": "confide.privacy.plan",
    "InputError": "confide.errors",
    "Ledger": "confide.privacy.ledger",
    "PerLayerClipping": "confide.mechanisms.clipping",
    "PrivacyPlan": "confide.privacy.plan",
    "PrivacyUnit": "confide.privacy.units",
    "clipped_gradient": "confide.gradients.engine",
    "fit": "confide.experiments.run",
    "inspect": "confide.surgery.inspect",
    "per_sample_gradients": "confide.gradients.reference",
    "private_steps": "confide.training.step",
    "repair": "confide.surgery.repair",
    "rule": "confide.gradients.rules",
}

__all__ = [
    "AdaptiveClipping",
    "Adjacency",
    "AutomaticClipping",
    "BudgetExhaustedError",
    "ClippedGradient",
    "ConfideError",
    "Experiment",
    "FlatClipping",
    "Guarantee",
    "InputError",
    "Ledger",
    "PerLayerClipping",
    "PrivacyPlan",
    "PrivacyUnit",
    "__version__",
    "clipped_gradient",
    "fit",
    "inspect",
    "per_sample_gradients",
    "private_steps",
    "repair",
    "rule",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'confide' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
