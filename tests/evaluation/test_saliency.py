# SPDX-License-Identifier: Apache-2.0
"""Explanations, against formulas in autograd and whole Jacobians; ordinary and steerable networks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from confide.equivariant import CyclicGroup
from confide.errors import ModelError
from confide.evaluation.saliency import (
    co_location,
    grad_cam,
    guided_backprop,
    impulse_response,
    last_spatial_layer,
    overlay,
    scaled,
)
from confide.models import ResNet9


def plain() -> nn.Sequential:
    torch.manual_seed(int(torch.randint(1 << 30, ())))
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    ).eval()


def test_the_last_map_is_found() -> None:
    model = plain()
    assert last_spatial_layer(model, torch.randn(1, 2, 10, 10)) is model[4]
    with pytest.raises(ModelError, match="no layer with a feature map"):
        last_spatial_layer(nn.Sequential(nn.Flatten(), nn.Linear(200, 3)), torch.randn(1, 2, 10, 10))


def test_grad_cam_is_its_formula() -> None:
    model, images, classes = plain(), torch.randn(4, 2, 12, 12), torch.tensor([0, 2, 1, 0])
    found = grad_cam(model, images, classes)
    for i in range(4):
        maps = model[:5](images[i : i + 1]).detach().requires_grad_(True)
        model[5:](maps)[0, classes[i]].backward()
        assert maps.grad is not None
        alpha = maps.grad.mean(dim=(2, 3), keepdim=True)
        raw = (alpha * maps).sum(dim=1, keepdim=True).clamp_min(0).detach()
        wide = nn.functional.interpolate(raw, (12, 12), mode="bilinear")[0, 0]
        expected = wide / wide.max() if wide.max() > 0 else wide
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-4)


def test_guided_backprop_drops_negative_parts_at_every_relu() -> None:
    """Against a ReLU whose backward is written out."""

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp_min(0)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            return grads[0].clamp_min(0) * (ctx.saved_tensors[0] > 0)

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Guided.apply(x)

    model, images, classes = plain(), torch.randn(3, 2, 12, 12), torch.tensor([0, 1, 2])
    found = guided_backprop(model, images, classes)
    again = nn.Sequential(*(Layer() if isinstance(layer, nn.ReLU) else layer for layer in model))
    x = images.clone().requires_grad_(True)
    again(x).gather(1, classes[:, None]).sum().backward()
    torch.testing.assert_close(found, x.grad)
    ordinary = images.clone().requires_grad_(True)
    model(ordinary).gather(1, classes[:, None]).sum().backward()
    assert ordinary.grad is not None and not torch.allclose(found, ordinary.grad), (
        "else the test sees nothing"
    )


def test_impulse_response_is_the_jacobian() -> None:
    model, image = plain().double(), torch.randn(2, 10, 10, dtype=torch.float64)
    found = impulse_response(model, image)
    jacobian = torch.autograd.functional.jacobian(lambda x: model[:5](x[None])[0], image)
    assert isinstance(jacobian, Tensor)  # (5, 3, 3, 2, 10, 10)
    torch.testing.assert_close(found.energy, jacobian.pow(2).sum(dim=(0, 1, 2, 3)).sqrt())
    torch.testing.assert_close(found.centre, jacobian[..., 5, 5].pow(2).sum(dim=(0, 3)).sqrt())


def test_the_answer_of_one_convolution_is_its_kernel() -> None:
    """A network that is one convolution answers an impulse with its kernel, turned round."""
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    found = impulse_response(nn.Sequential(conv, nn.Flatten()), torch.randn(1, 9, 9))
    torch.testing.assert_close(found.centre[3:6, 3:6], conv.weight.detach()[0, 0].flip(0, 1).abs())
    assert found.centre.sum() == pytest.approx(float(conv.weight.detach().abs().sum()), rel=1e-5)


def steerable() -> nn.Module:
    return ResNet9(in_channels=1, classes=3, widths=(4, 4, 8), group=CyclicGroup(4), restrict=False).eval()


@pytest.mark.parametrize(
    "build", [steerable, lambda: ResNet9(in_channels=1, classes=3, widths=(4, 4, 8)).eval()]
)
def test_ordinary_and_steerable_networks(build: Any) -> None:
    torch.manual_seed(int(torch.randint(1 << 30, ())))
    model = build()
    images, classes = torch.randn(2, 1, 28, 28), torch.tensor([0, 2])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = grad_cam(model, images, classes)
    assert maps.shape == (2, 28, 28) and maps.min() >= 0 and maps.max() <= 1
    guided = guided_backprop(model, images, classes)
    assert guided.shape == images.shape and guided.isfinite().all() and guided.abs().sum() > 0
    response = impulse_response(model, images[0])
    assert response.energy.shape == (28, 28) and response.energy.max() > 0
    found = co_location(response.energy, guided[0].abs().sum(dim=0))
    assert -1 <= found.rank_correlation <= 1 and 0 <= found.overlap <= 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_explanations_of_a_steerable_network_turn_with_the_image() -> None:
    """What no ordinary network does: turn the image by 90° and both maps turn with it."""
    torch.manual_seed(int(torch.randint(1 << 30, ())))
    model = steerable().double()
    image = torch.randn(1, 1, 29, 29, dtype=torch.float64)
    turned = image.rot90(1, (2, 3))
    target = torch.tensor([1])
    torch.testing.assert_close(model(turned), model(image), atol=1e-8, rtol=1e-6)
    first, second = (guided_backprop(model, x, target)[0, 0] for x in (image, turned))
    torch.testing.assert_close(second, first.rot90(1, (0, 1)), atol=1e-9, rtol=1e-6)
    ordinary = ResNet9(in_channels=1, classes=3, widths=(4, 4, 8)).eval().double()
    first, second = (guided_backprop(ordinary, x, target)[0, 0] for x in (image, turned))
    assert not torch.allclose(second, first.rot90(1, (0, 1)), rtol=1e-3)


def test_co_location_equals_scipy_and_counts_the_strongest() -> None:
    generator = np.random.default_rng()
    first = torch.tensor(np.round(generator.random((10, 10)), 1))
    second = torch.tensor(generator.random((10, 10))) + first
    found = co_location(first, second)
    assert found.rank_correlation == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
    a = set(np.argsort(-first.numpy().ravel(), kind="stable")[:10])
    b = set(np.argsort(-second.numpy().ravel(), kind="stable")[:10])
    assert found.overlap == pytest.approx(len(a & b) / len(a | b))
    assert co_location(second, second).overlap == 1.0
    assert co_location(second, second).rank_correlation == pytest.approx(1.0)
    assert math.isnan(co_location(torch.ones(4, 4), torch.rand(4, 4)).rank_correlation)
    with pytest.raises(ModelError, match="cannot be compared"):
        co_location(torch.ones(4, 4), torch.ones(4, 5))


def test_maps_are_scaled_one_by_one_and_nothing_positive_stays_zero() -> None:
    maps = torch.tensor([[[2.0, -4.0]], [[-1.0, -2.0]]])
    assert scaled(maps).tolist() == [[[1.0, 0.0]], [[0.0, 0.0]]]


def test_overlay_leaves_the_image_where_nothing_is_salient() -> None:
    image = np.random.default_rng().integers(0, 256, (6, 6, 1), dtype=np.uint8)
    saliency = np.zeros((6, 6))
    saliency[2, 3] = 1.0
    drawn = overlay(image, saliency)
    assert drawn.shape == (6, 6, 3) and drawn.dtype == np.uint8
    rest = saliency == 0
    assert (drawn[rest] == np.repeat(image[rest], 3, axis=-1)).all()
    # The strongest place is three quarters the colour map's end, a light yellow.
    assert drawn[2, 3, 0] > 180 and drawn[2, 3, 1] > 180
