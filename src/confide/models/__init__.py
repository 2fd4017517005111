# SPDX-License-Identifier: Apache-2.0
"""Architectures: ordinary and steerable, all with per-sample gradients."""

from __future__ import annotations

from confide.models.resnet9 import ResNet9
from confide.models.resnet18 import ResNet18, load_published
from confide.models.resnet50 import ResNet50
from confide.models.unet import UNet
from confide.models.unet_resnet18 import UNetResNet18
from confide.models.vgg11 import VGG11

__all__ = ["VGG11", "ResNet9", "ResNet18", "ResNet50", "UNet", "UNetResNet18", "load_published"]
