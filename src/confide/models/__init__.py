# SPDX-License-Identifier: Apache-2.0
"""Architectures: ordinary and steerable, all with per-sample gradients."""

from __future__ import annotations

from confide.models.resnet9 import ResNet9

__all__ = ["ResNet9"]
