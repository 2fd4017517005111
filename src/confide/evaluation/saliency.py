# SPDX-License-Identifier: Apache-2.0
"""Where a network looks: Grad-CAM, guided backpropagation, and the filter impulse response (Hölzl et al.
2022, fig. 2).

They work on any network with spatial feature maps, ordinary or steerable. A saliency map is a picture of the
network, not of the disease: it says which pixels moved the score, not whether that was right.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from confide.errors import ModelError

# Impulses pushed through at once.
_CHUNK = 64


def last_spatial_layer(model: nn.Module, images: Tensor) -> nn.Module:
    """The deepest leaf module whose output still is a map: (B, C, h, w) with more than one pixel.

    Raises:
        ModelError: If there is none, as in a network of linear layers only.
    """
    found: list[nn.Module] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(module)

    leaves = [module for module in model.modules() if not any(True for _ in module.children())]
    handles = [leaf.register_forward_hook(look) for leaf in leaves]
    try:
        with torch.no_grad():
            model(images[:1])
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise ModelError(
            "the model has no layer with a feature map",
            why="Grad-CAM shows where in an image; this model never says.",
        )
    return found[-1]


def grad_cam(model: nn.Module, images: Tensor, classes: Tensor, layer: nn.Module | None = None) -> Tensor:
    """Grad-CAM: the parts of a feature map that raise a class's score. Selvaraju et al. (2017),
    arXiv:1610.02391.

    ReLU(Σ_c α_c·A_c), α_c the mean over pixels of ∂score/∂A_c; enlarged to the image and scaled to a maximum
    of one.

    Args:
        model: In eval mode.
        images: (B, C, H, W).
        classes: (B,) class whose score is explained.
        layer: The layer whose output is A; default: `last_spatial_layer`.

    Returns:
        (B, H, W) in [0, 1]; all zero where nothing raises the score.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    chosen = layer if layer is not None else last_spatial_layer(model, images)
    raw = LayerGradCam(model, chosen).attribute(images, target=classes, relu_attributions=True)
    assert isinstance(raw, Tensor)
    enlarged = LayerAttribution.interpolate(raw.detach(), (images.shape[2], images.shape[3]), "bilinear")
    return scaled(enlarged.sum(dim=1))


def guided_backprop(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Guided backpropagation: the gradient of a score, negative parts dropped at every ReLU. Springenberg et
    al. (2015).

    Activations other than `nn.ReLU` (gates and norms of steerable networks, for example) pass their plain
    gradient.

    Args:
        model: In eval mode.
        images: (B, C, H, W).
        classes: (B,) class whose score is explained.

    Returns:
        (B, C, H, W).
    """
    from captum.attr import GuidedBackprop

    with warnings.catch_warnings():
        # captum tells that it sets hooks; it also removes them.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"captum\..*")
        found = GuidedBackprop(model).attribute(images.detach().clone().requires_grad_(True), target=classes)
    assert isinstance(found, Tensor)
    return found.detach()


def scaled(maps: Tensor) -> Tensor:
    """(B, H, W) maps, each divided by its maximum; a map without a positive value stays zero."""
    positive = maps.clamp_min(0)
    top = positive.amax(dim=(1, 2), keepdim=True)
    return torch.where(
        top > 0, positive / top.clamp_min(torch.finfo(maps.dtype).tiny), torch.zeros_like(positive)
    )


@dataclass(frozen=True)
class ImpulseResponse:
    """How strongly the feature map answers an impulse at every pixel.

    Attributes:
        energy: (H, W) ‖∂A/∂x_p‖: the size of the whole answer to a unit impulse at pixel p.
        centre: (h, w) size of the answer at every place of the feature map, to an impulse at the image's
        centre.
    """

    energy: Tensor
    centre: Tensor


def impulse_response(model: nn.Module, image: Tensor, layer: nn.Module | None = None) -> ImpulseResponse:
    """Filter impulse response of the network up to a layer, linearised around an image.

    A network with fixed activations is linear: its answer to a small impulse at pixel p is a column of the
    Jacobian of the feature map A. All columns are taken exactly, by forward-mode differentiation, summed over
    channels.

    Args:
        model: In eval mode.
        image: (C, H, W).
        layer: The layer whose output is A; default: `last_spatial_layer`.
    """
    chosen = layer if layer is not None else last_spatial_layer(model, image[None])
    channels, height, width = image.shape

    def features(x: Tensor) -> Tensor:
        caught: list[Tensor] = []

        def catch(module: nn.Module, inputs: object, output: Tensor) -> None:
            caught.append(output)

        handle = chosen.register_forward_hook(catch)
        try:
            model(x[None])
        finally:
            handle.remove()
        return caught[-1][0]

    def answer(impulse: Tensor) -> Tensor:
        return torch.func.jvp(features, (image,), (impulse,))[1]

    places = torch.arange(height * width)
    squared = torch.zeros(height * width, dtype=image.dtype)
    middle = (height // 2) * width + width // 2
    centre: Tensor | None = None
    with torch.no_grad(), warnings.catch_warnings():
        # Forward mode loads decompositions that torch scripts, and torch deprecates its own scripting.
        warnings.filterwarnings("ignore", r"`torch\.jit\.script` is", DeprecationWarning)
        for channel in range(channels):
            for part in places.split(_CHUNK):
                impulses = torch.zeros(len(part), channels, height * width, dtype=image.dtype)
                impulses[torch.arange(len(part)), channel, part] = 1.0
                answers = torch.func.vmap(answer)(impulses.reshape(-1, channels, height, width))
                squared[part] += (answers**2).sum(dim=(1, 2, 3))
                if middle in part:
                    own = (answers[int((part == middle).nonzero())] ** 2).sum(dim=0)
                    centre = own if centre is None else centre + own
    assert centre is not None
    return ImpulseResponse(squared.sqrt().reshape(height, width), centre.sqrt())


@dataclass(frozen=True)
class CoLocation:
    """Whether two maps point at the same pixels.

    Attributes:
        rank_correlation: Spearman's ρ over pixels; NaN if a map is constant.
        overlap: Of the strongest tenth of the pixels of each map, the share that both have (IoU).
    """

    rank_correlation: float
    overlap: float


def co_location(first: Tensor, second: Tensor, top: float = 0.1) -> CoLocation:
    """Co-location of two maps, such as impulse energy and |guided backpropagation|.

    Args:
        first: (H, W).
        second: (H, W).
        top: The share of pixels that count as strong.

    Raises:
        ModelError: If the shapes differ.
    """
    from scipy.stats import rankdata

    if first.shape != second.shape:
        raise ModelError(f"maps of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared")
    a, b = (m.detach().double().reshape(-1).cpu().numpy() for m in (first, second))
    ranks = np.stack([rankdata(a), rankdata(b)])
    spread = ranks.std(axis=1)
    both = (ranks - ranks.mean(axis=1, keepdims=True)).prod(axis=0).mean()
    rho = float(both / spread.prod()) if (spread > 0).all() else float("nan")
    strong = [_strongest(values, top) for values in (a, b)]
    shared = (strong[0] & strong[1]).sum() / max(1, (strong[0] | strong[1]).sum())
    return CoLocation(rho, float(shared))


def _strongest(values: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The strongest share of the entries; the first ones win a tie, so the number is fixed."""
    count = max(1, round(share * len(values)))
    found = np.zeros(len(values), dtype=np.bool_)
    found[np.argsort(-values, kind="stable")[:count]] = True
    return found


def overlay(image: NDArray[np.uint8], saliency: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A saliency map over its image, as a picture.

    Args:
        image: (H, W, 1) or (H, W, 3) uint8.
        saliency: (H, W) in [0, 1].

    Returns:
        (H, W, 3) uint8: the image in grey, warm colours where saliency is high.
    """
    from matplotlib import colormaps

    grey = image.mean(axis=2, keepdims=True) / 255
    warm = colormaps["inferno"](saliency)[..., :3]
    weight = 0.75 * np.clip(saliency, 0, 1)[..., None] ** 0.8
    mixed = (1 - weight) * np.repeat(grey, 3, axis=2) + weight * warm
    return np.clip(np.rint(255 * mixed), 0, 255).astype(np.uint8)
