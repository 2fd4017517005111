# SPDX-License-Identifier: Apache-2.0
"""Real networks of the field, as MONAI and confide build them, small enough to check sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

CLASSES = 3


@dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        name: Its name in tables.
        build: Makes it, with batch normalisation wherever its makers put it.
        shape: Shape of one input, channels first.
        dense: Whether it labels every pixel instead of the image.
        fast: Whether its check is part of the default tests.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    dense: bool = False
    fast: bool = False


def monai(kind: str, *arguments: Any, **options: Any) -> Callable[[], nn.Module]:
    """A network of `monai.networks.nets`."""

    def build() -> nn.Module:
        from monai.networks import nets

        return getattr(nets, kind)(*arguments, **options)

    return build


def ours(name: str, **options: Any) -> Callable[[], nn.Module]:
    """A network of `confide.models`."""

    def build() -> nn.Module:
        from confide.models.registry import build as registered

        return registered(name, in_channels=options.pop("in_channels", 1), classes=CLASSES, **options)

    return build


def _both(
    title: str, make: Callable[[int], Callable[[], nn.Module]], sides: tuple[int, int], **facts: Any
) -> list[Network]:
    fast = facts.pop("fast", ())
    return [
        Network(f"{title} {d}-D", make(d), (1, *(sides[d - 2],) * d), fast=d in fast, **facts) for d in (2, 3)
    ]


def _resnet(kind: str) -> Callable[[int], Callable[[], nn.Module]]:
    return lambda d: monai(kind, spatial_dims=d, n_input_channels=1, num_classes=CLASSES)


def _segmenter(kind: str, **options: Any) -> Callable[[int], Callable[[], nn.Module]]:
    return lambda d: monai(kind, spatial_dims=d, in_channels=1, out_channels=CLASSES, **options)


def _levels(kind: str, **options: Any) -> Callable[[int], Callable[[], nn.Module]]:
    return _segmenter(kind, channels=(8, 16, 32), strides=(2, 2), **options)


def _transformer(
    kind: str, sides: tuple[int, int], **options: Any
) -> Callable[[int], Callable[[], nn.Module]]:
    return lambda d: monai(
        kind,
        in_channels=1,
        img_size=(sides[d - 2],) * d,
        spatial_dims=d,
        hidden_size=48,
        mlp_dim=96,
        num_heads=4,
        **options,
    )


_SE = {"block": "se_bottleneck", "layers": (1, 1, 1, 1), "groups": 1, "reduction": 16, "dropout_prob": None}

NETWORKS = (
    Network("ResNet-9", ours("resnet9"), (1, 28, 28)),
    Network("ResNet-9 steerable C4", ours("resnet9", widths=(4, 8, 8), group="C4"), (1, 28, 28), fast=True),
    Network("ResNet-9 steerable C8", ours("resnet9", widths=(4, 8, 8), group="C8"), (1, 28, 28)),
    Network("ResNet-9 steerable O(2)", ours("resnet9", widths=(4, 8, 8), group="O2"), (1, 28, 28), fast=True),
    Network("ResNet-18 (confide)", ours("resnet18"), (1, 64, 64)),
    Network("U-Net 2-D (confide)", ours("unet", widths=(8, 16, 32)), (1, 32, 32), dense=True),
    Network("U-Net 3-D (confide)", ours("unet", widths=(8, 16, 32), dims=3), (1, 16, 16, 16), dense=True),
    *_both("ResNet-18", _resnet("resnet18"), (64, 32), fast=(2,)),
    *_both("ResNet-50", _resnet("resnet50"), (64, 32)),
    *_both(
        "DenseNet121",
        lambda d: monai("DenseNet121", spatial_dims=d, in_channels=1, out_channels=CLASSES),
        (64, 32),
    ),
    *_both(
        "EfficientNet-B0",
        lambda d: monai(
            "EfficientNetBN",
            "efficientnet-b0",
            pretrained=False,
            spatial_dims=d,
            in_channels=1,
            num_classes=CLASSES,
        ),
        (64, 32),
    ),
    *_both(
        "SENet",
        lambda d: monai("SENet", spatial_dims=d, in_channels=1, num_classes=CLASSES, **_SE),
        (64, 32),
    ),
    *_both(
        "ViT",
        _transformer("ViT", (32, 16), patch_size=8, num_layers=2, classification=True, num_classes=CLASSES),
        (32, 16),
        fast=(2,),
    ),
    *_both(
        "BasicUNet", _segmenter("BasicUNet", features=(8, 8, 16, 32, 32, 8)), (32, 32), dense=True, fast=(2,)
    ),
    *_both("UNet", _levels("UNet"), (32, 16), dense=True, fast=(2, 3)),
    *_both("UNet, residual units", _levels("UNet", num_res_units=2), (32, 16), dense=True),
    *_both(
        "UNet, batch norm", _levels("UNet", num_res_units=2, norm="batch"), (32, 16), dense=True, fast=(2,)
    ),
    *_both("AttentionUnet", _levels("AttentionUnet"), (32, 16), dense=True, fast=(2,)),
    *_both("SegResNet", _segmenter("SegResNet", init_filters=8), (32, 16), dense=True, fast=(2,)),
    *_both(
        "UNETR",
        lambda d: monai(
            "UNETR",
            in_channels=1,
            out_channels=CLASSES,
            img_size=(32,) * d,
            feature_size=8,
            hidden_size=48,
            mlp_dim=96,
            num_heads=4,
            spatial_dims=d,
        ),
        (32, 32),
        dense=True,
    ),
    Network("SwinUNETR 2-D", _segmenter("SwinUNETR", feature_size=12)(2), (1, 64, 64), dense=True),
    # Two voxels are left at the bottom, the fewest that instance norm takes; 64³ needs too much memory here.
    Network("SwinUNETR 3-D", _segmenter("SwinUNETR", feature_size=12)(3), (1, 64, 32, 32), dense=True),
    *_both("VNet", _segmenter("VNet"), (32, 32), dense=True),
    *_both(
        "DynUNet",
        lambda d: monai(
            "DynUNet",
            spatial_dims=d,
            in_channels=1,
            out_channels=CLASSES,
            kernel_size=(3, 3, 3),
            strides=(1, 2, 2),
            upsample_kernel_size=(2, 2),
            filters=(8, 16, 32),
        ),
        (32, 16),
        dense=True,
        fast=(2,),
    ),
    *_both(
        "FlexibleUNet",
        lambda d: monai(
            "FlexibleUNet",
            in_channels=1,
            out_channels=CLASSES,
            backbone="efficientnet-b0",
            pretrained=False,
            decoder_channels=(32, 16, 16, 8, 8),
            spatial_dims=d,
        ),
        (64, 32),
        dense=True,
    ),
)


def without_randomness(model: nn.Module) -> nn.Module:
    """Switch dropout and stochastic depth off, so that two computations of one gradient can be compared."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in ("drop_prob", "_drop_connect_rate", "drop_connect_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def batch(network: Network, rows: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Images (rows, *shape) and targets: (rows,) or one label a pixel."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(rows, *network.shape, generator=generator, dtype=torch.float64).to(dtype)
    if network.dense:
        return images, (images[:, 0] > 0).long()
    return images, torch.randint(0, CLASSES, (rows,), generator=generator)


def loss(model: nn.Module, rows: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each sample (B,), averaged over its pixels if it has any."""
    images, targets = rows
    scores = next(leaf for leaf in tree_leaves(model(images)) if isinstance(leaf, Tensor))
    return (
        F.cross_entropy(scores, targets, reduction="none")
        .flatten(1 if targets.ndim > 1 else 0)
        .reshape(len(targets), -1)
        .mean(1)
    )


def one_by_one(model: nn.Module, rows: tuple[Tensor, Tensor]) -> tuple[dict[str, Tensor], Tensor, float]:
    """The clipped sum by ordinary autograd, a sample at a time: sums, norms (B,), and the clip norm used.

    The clip norm is the middle one of the norms, so that clipped and unclipped samples both occur.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients, norms = [], []
    for row in range(len(rows[0])):
        value = loss(model, (rows[0][row : row + 1], rows[1][row : row + 1]))[0]
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
        gradients.append(
            [torch.zeros_like(p) if g is None else g for p, g in zip(parameters.values(), found, strict=True)]
        )
        norms.append(torch.stack([g.double().square().sum() for g in gradients[-1]]).sum().sqrt())
    bound = float(torch.stack(norms).median())
    weights = [min(1.0, bound / float(norm)) for norm in norms]
    sums = {
        name: sum((w * g[k] for w, g in zip(weights, gradients, strict=True)), torch.zeros_like(p))
        for k, (name, p) in enumerate(parameters.items())
    }
    return sums, torch.stack(norms), bound


def deviation(sums: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest deviation of a coordinate, relative to the largest coordinate of all."""
    scale = max(float(value.abs().max()) for value in expected.values() if value.numel())
    return (
        max(float((sums[name] - value).abs().max()) for name, value in expected.items() if value.numel())
        / scale
    )
