# SPDX-License-Identifier: Apache-2.0
"""The networks and batches that time and memory are measured on; random numbers for images."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.models import ResNet9, ResNet18, UNet

Batch = tuple[Tensor, Tensor]


def machine() -> str:
    """The processor, as records name it: "2-core x86_64 (AMD, AVX512, no AMX), CPU"."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="ascii", errors="replace") if info.exists() else ""
    makers = [short for name, short in (("AuthenticAMD", "AMD"), ("GenuineIntel", "Intel")) if name in text]
    tiles = "AMX" if "amx_bf16" in text else "no AMX"
    kind = ", ".join([*makers, torch.backends.cpu.get_cpu_capability(), tiles])
    return f"{os.cpu_count()}-core {platform.machine()} ({kind}), CPU"


def load_now() -> str:
    """Whether the machine has other work now, as records say it."""
    return "others were working" if os.getloadavg()[0] > 1.5 else "idle"


@dataclass(frozen=True)
class Workload:
    """A network at one batch.

    Attributes:
        title: As tables name it.
        build: Makes the network.
        shape: Shape of one image, channels first.
        rows: Images in a batch.
        classes: Classes, of images or of pixels.
        dense: Whether every pixel has a label.
    """

    title: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    rows: int
    classes: int
    dense: bool = False

    def batch(self, rows: int | None = None) -> Batch:
        """Images (rows, *shape) and targets: one for each image or pixel."""
        source = torch.Generator().manual_seed(0)
        images = torch.randn(rows or self.rows, *self.shape, generator=source)
        places = images.shape[2:] if self.dense else ()
        return images, torch.randint(0, self.classes, (len(images), *places), generator=source)


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each image, averaged over its own pixels: (B,)."""
    images, targets = batch
    found = F.cross_entropy(model(images), targets, reduction="none")
    return found if found.dim() == 1 else found.flatten(1).mean(1)


def conv_block(channels: int, width: int, pool: bool = False) -> nn.Sequential:
    """Convolution, GroupNorm of about four channels a group, ReLU, pooling."""
    groups = min(32, max(1, width // 4))
    layers = [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.GroupNorm(groups, width), nn.ReLU()]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Added(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def resnet9(a: int, b: int, c: int) -> nn.Module:
    """ResNet-9 with three poolings, as other frameworks were measured on."""
    return nn.Sequential(
        conv_block(3, a),
        conv_block(a, b, pool=True),
        _Added(conv_block(b, b), conv_block(b, b)),
        conv_block(b, c, pool=True),
        conv_block(c, c, pool=True),
        _Added(conv_block(c, c), conv_block(c, c)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(c, 10),
    )


def _steerable(group: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: ResNet9(3, 10, (8, 16, 32), group=group, multiplicity="parameters", **options)


def _resnet18() -> nn.Module:
    return ResNet18(3, 10, norm_groups=32)


WORKLOADS = {
    "W5": Workload("ResNet-9 8-16-32", lambda: resnet9(8, 16, 32), (3, 28, 28), 64, 10),
    "W1": Workload("ResNet-9 64-128-256", lambda: resnet9(64, 128, 256), (3, 28, 28), 64, 10),
    "W2b": Workload("ResNet-18, 64²", _resnet18, (3, 64, 64), 32, 10),
    "W2a": Workload("ResNet-18, 224²", _resnet18, (3, 224, 224), 8, 10),
    "W3": Workload(
        "U-Net 32-256, 128²", lambda: UNet(1, 2, (32, 64, 128, 256), norm_groups=8), (1, 128, 128), 4, 2, True
    ),
    "W4": Workload(
        "3-D U-Net 16-64, 32³",
        lambda: UNet(1, 2, (16, 32, 64), dims=3, norm_groups=8),
        (1, 32, 32, 32),
        4,
        2,
        True,
    ),
    "C4": Workload("ResNet-9 steerable C4", _steerable("C4"), (3, 28, 28), 64, 10),
    "C8": Workload("ResNet-9 steerable C8", _steerable("C8"), (3, 28, 28), 64, 10),
    "O2": Workload("ResNet-9 steerable O(2)", _steerable("O2"), (3, 28, 28), 64, 10),
}
