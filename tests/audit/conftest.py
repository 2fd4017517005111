# SPDX-License-Identifier: Apache-2.0
"""A small training to attack."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from confide.audit.rehearsal import Subject
from confide.privacy.plan import PrivacyPlan
from confide.training.losses import cross_entropy

# Not 1, so that a forgotten factor shows.
CLIP_NORM = 0.7


@pytest.fixture
def subject() -> Subject:
    """A convolutional net on noise; claimed: q = 0.05, σ = 5, 20 steps."""
    images, labels = torch.randn(640, 1, 6, 6), torch.randint(0, 2, (640,))
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.GroupNorm(1, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 2),
    )
    return Subject(model, (images, labels), PrivacyPlan(5.0, 0.05, 20, 1e-5, 640), cross_entropy, CLIP_NORM)
