# SPDX-License-Identifier: Apache-2.0
"""ResNet-50 carries torchvision's names and shapes, takes its weights, and has exact clipped sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from confide import clipped_gradient
from confide.models import ResNet50, load_published


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet50, written out from its published checkpoint's rules."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.weight": (64,),
        "bn1.bias": (64,),
    }
    before = 64
    for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            shapes[f"{at}.conv1.weight"] = (width, before, 1, 1)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            shapes[f"{at}.conv3.weight"] = (4 * width, width, 1, 1)
            norms = {"bn1": width, "bn2": width, "bn3": 4 * width}
            if block == 0:
                shapes[f"{at}.downsample.0.weight"] = (4 * width, before, 1, 1)
                norms["downsample.1"] = 4 * width
            for norm, channels in norms.items():
                shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (channels,)
            before = 4 * width
    return shapes | {"fc.weight": (1000, 2048), "fc.bias": (1000,)}


def test_names_and_shapes_are_torchvisions() -> None:
    model = ResNet50(in_channels=3, classes=1000)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_shapes()
    assert sum(p.numel() for p in model.parameters()) == 25_557_032  # as published


def test_published_weights_load_and_a_new_head_stays() -> None:
    source = {name: torch.randn(shape) for name, shape in published_shapes().items()}
    model = ResNet50(in_channels=3, classes=2)
    assert load_published(model, source) == ("fc.weight", "fc.bias")
    at = "layer3.5.conv3.weight"
    assert torch.equal(model.state_dict()[at], source[at])


def test_the_stride_is_that_of_the_3x3_convolution() -> None:
    model = ResNet50(in_channels=1, classes=3, widths=(2, 2, 2, 2), stem="small")
    sizes: dict[str, int] = {}
    for name in ("layer1", "layer2.0.conv1", "layer2.0.conv2", "layer3", "layer4"):

        def note(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
            sizes[name] = output.shape[-1]

        model.get_submodule(name).register_forward_hook(note)
    assert model(torch.rand(2, 1, 28, 28)).shape == (2, 3)
    assert sizes == {"layer1": 28, "layer2.0.conv1": 28, "layer2.0.conv2": 14, "layer3": 7, "layer4": 4}


def test_clipped_sums_are_those_of_one_sample_at_a_time() -> None:
    model = ResNet50(in_channels=1, classes=3, widths=(2, 4, 4, 4), stem="small").double()
    images, labels = torch.rand(3, 1, 16, 16, dtype=torch.float64), torch.tensor([0, 2, 1])

    def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        return nn.functional.cross_entropy(network(batch[0]), batch[1], reduction="none")

    rows = [
        torch.autograd.grad(loss(model, (images[i : i + 1], labels[i : i + 1]))[0], list(model.parameters()))
        for i in range(3)
    ]
    norms = [sum(float(g.square().sum()) for g in row) ** 0.5 for row in rows]
    bound = sorted(norms)[1]
    found = clipped_gradient(model, loss, (images, labels), clip_norm=bound)
    torch.testing.assert_close(found.norms, torch.tensor(norms, dtype=torch.float64), rtol=1e-9, atol=0)
    for i, (name, _) in enumerate(model.named_parameters()):
        expected = sum(min(1.0, bound / norm) * row[i] for norm, row in zip(norms, rows, strict=True))
        torch.testing.assert_close(found.sums[name], expected, rtol=1e-7, atol=1e-12 * bound)
