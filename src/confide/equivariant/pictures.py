# SPDX-License-Identifier: Apache-2.0
"""Pictures of equivariance, as matplotlib figures: features of a turned image, errors, kernels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from confide.equivariant.groups import Element
from confide.equivariant.layers import SteerableConv2d
from confide.equivariant.measure import LayerError, layer_outputs, turn_fields, turn_image
from confide.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_fields(
    model: nn.Module, image: Tensor, layer: str, elements: Sequence[Element], field: int = 0
) -> Figure:
    """A column for each turn: the image; the layer's features of the turned image; those of the upright one,
    turned; and their difference. The last row is white where the layer is equivariant.

    Shown is the length of one field at each pixel, and for a field that permutes its channels the first of
    them, which an element moves to another place.

    Args:
        model: A network with steerable layers.
        image: (1, C, H, W).
        layer: Name of a steerable layer.
        elements: Turns, each of the layer's group.
        field: Number of the field.

    Raises:
        ConfigError: If there is no such layer, or its group has no such element.
    """
    plain = layer_outputs(model.eval(), image)
    kind, before = plain.get(layer, (None, image))
    if kind is None:
        raise ConfigError(
            f"there is no steerable layer {layer!r}", remedy=f"Choose one of {', '.join(plain)}."
        )
    missing = [e for e in elements if not kind.group.has(e)]
    if missing:
        raise ConfigError(f"{kind.group} has no turn by {math.degrees(missing[0].angle):.0f}°", where=layer)
    figure, axes = _panels(4, len(elements))
    start = field * kind.rep.size
    shown = slice(start, start + (1 if kind.rep.pointwise == "any" else kind.rep.size))
    for column, element in enumerate(elements):
        turned = turn_image(image, element)
        found = layer_outputs(model, turned)[layer][1]
        wanted = turn_fields(before, kind, element)
        one, two = (
            t[0, shown].norm(dim=0) if shown.stop - start > 1 else t[0, start] for t in (found, wanted)
        )
        top = float(torch.stack([one, two]).abs().max()) or 1.0
        axes[0][column].imshow(_pixels(turned), cmap="gray")
        axes[0][column].set_title(_label(element))
        for row, picture in ((1, one), (2, two), (3, one - two)):
            axes[row][column].imshow(picture.cpu().numpy(), cmap="RdBu_r", vmin=-top, vmax=top)
    for row, text in enumerate(("image g·x", "f(g·x)", "g·f(x)", "difference")):
        axes[row][0].set_ylabel(text)
    figure.suptitle(f"{layer}: {kind}")
    return figure


def draw_errors(errors: Sequence[LayerError]) -> Figure:
    """The error of each layer (rows) under each turn (columns), on a logarithmic scale.

    What a layer's group does not promise is marked by a dot.
    """
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(e.layer for e in errors))
    turns = list(dict.fromkeys((e.mirrored, e.angle) for e in errors))
    table = torch.full((len(layers), len(turns)), torch.nan)
    figure = Figure(figsize=(2.5 + 0.5 * len(turns), 1.2 + 0.26 * len(layers)), layout="constrained")
    axis = figure.subplots()
    for e in errors:
        row, column = layers.index(e.layer), turns.index((e.mirrored, e.angle))
        table[row, column] = max(e.error, 1e-8)
        if not e.promised:
            axis.text(column, row, "·", ha="center", va="center")
    shown = axis.imshow(table.numpy(), norm=LogNorm(1e-8, 1.0), cmap="viridis", aspect="auto")
    labels = [f"{'m ' if mirrored else ''}{angle:.0f}°" for mirrored, angle in turns]
    axis.set_xticks(range(len(turns)), labels, rotation=90)
    axis.set_yticks(range(len(layers)), layers)
    axis.set_xlabel("turn (m: mirrored first; ·: not of the layer's group)")
    figure.colorbar(shown, label="‖f(g·x) − g·f(x)‖ / ‖f(x)‖")
    return figure


def draw_basis(layer: SteerableConv2d, most: int = 12) -> Figure:
    """The first kernels of a basis: rows are kernels, columns the output channels of one field, shown for its
    first input channel that the kernel uses."""
    kernels = layer.exact_basis().kernels[:most]
    figure, axes = _panels(len(kernels), kernels.shape[1])
    top = abs(kernels).max()
    for row, kernel in enumerate(kernels):
        for column, block in enumerate(kernel):
            used = max(range(len(block)), key=lambda b: float(abs(block[b]).max()))
            axes[row][column].imshow(block[used], cmap="RdBu_r", vmin=-top, vmax=top)
        axes[row][0].set_ylabel(f"{row}", rotation=0, labelpad=10)
    figure.suptitle(
        f"{len(kernels)} of {layer.functions} kernels, {layer.in_type.rep} → {layer.out_type.rep}"
    )
    return figure


def blobs(channels: int, side: int) -> Tensor:
    """A smooth, lopsided picture that is no patient's: (1, channels, side, side) in [0, 1]."""
    source = torch.Generator().manual_seed(4)
    places = torch.rand(channels, 5, 4, generator=source)
    y, x = torch.meshgrid(torch.linspace(-1, 1, side), torch.linspace(-1, 1, side), indexing="ij")
    cx, cy = ((places[..., i, None, None] - 0.5) * 1.1 for i in (0, 1))
    wx, wy = (0.1 + 0.2 * places[..., i, None, None] for i in (2, 3))
    picture = torch.exp(-(((x - cx) / wx) ** 2) - ((y - cy) / wy) ** 2).sum(1)
    return (picture / picture.amax((1, 2), keepdim=True))[None]


def _panels(rows: int, columns: int) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.2 * columns + 0.6, 1.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    return figure, axes


def _pixels(image: Tensor) -> Any:
    """(1, C, H, W) as matplotlib wants it: colour for three channels, else the first one."""
    picture = image[0].cpu().float().clamp(0, 1)
    return picture.permute(1, 2, 0).numpy() if len(picture) == 3 else picture[0].numpy()


def _label(element: Element) -> str:
    return f"{'mirror, ' if element.mirrored else ''}{math.degrees(element.angle):.0f}°"
