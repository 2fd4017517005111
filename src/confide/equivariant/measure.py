# SPDX-License-Identifier: Apache-2.0
"""How equivariant a network is: the error of every layer under every turn of an image.

For a layer f between fields, the error under g is ‖f(g·x) − g·f(x)‖ / ‖f(x)‖ of everything from the image up
to that layer, over the disc that stays inside the image when it is turned. Quarter turns and mirrors only
move pixels; other angles resample the image and the features bilinearly, which has an error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.equivariant.fields import FieldType, SteerableModule
from confide.equivariant.groups import Element
from confide.errors import ModelError

QUARTER = math.pi / 2


@dataclass(frozen=True)
class LayerError:
    """The error of one layer under one turn.

    Attributes:
        layer: Its name in the model; "output" for the model's result.
        group: Name of the group that its fields promise to follow.
        angle: Degrees, counter-clockwise.
        mirrored: Whether the image was mirrored first.
        promised: Whether the group has that element. If not, the fields have no way to follow it, and the
            error is that of features which merely turn in place.
        error: ‖f(g·x) − g·f(x)‖ / ‖f(x)‖.
    """

    layer: str
    group: str
    angle: float
    mirrored: bool
    promised: bool
    error: float


def turn_image(x: Tensor, element: Element) -> Tensor:
    """Mirror and turn (B, C, H, W) about its centre: exact by quarter turns of a square, else bilinear."""
    x = x.flip(-1) if element.mirrored else x
    quarters = element.angle / QUARTER
    if abs(quarters - round(quarters)) < 1e-9 and (x.shape[-1] == x.shape[-2] or round(quarters) % 2 == 0):
        return torch.rot90(x, round(quarters), (-2, -1))
    c, s = math.cos(element.angle), math.sin(element.angle)
    rows, columns = x.shape[-2:]
    # Counter-clockwise as seen, with a vertical axis that points down.
    back = torch.tensor([[c, -s * rows / columns, 0.0], [s * columns / rows, c, 0.0]], dtype=x.dtype)
    grid = F.affine_grid(back.to(x.device).expand(len(x), 2, 3), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", align_corners=False)


def turn_fields(x: Tensor, kind: FieldType, element: Element) -> Tensor:
    """g·x: the picture turned, and the channels of every field mixed by ρ(g)."""
    matrix = torch.from_numpy(kind.rep(element)).to(x)
    fields = turn_image(x, element).unflatten(1, (kind.multiplicity, -1))
    return torch.einsum("ab,nmbhw->nmahw", matrix, fields).flatten(1, 2)


def layer_outputs(model: nn.Module, x: Tensor) -> dict[str, tuple[FieldType | None, Tensor]]:
    """Type and output of every steerable layer, in the order in which they ran, and of the model itself."""
    found: dict[str, tuple[FieldType | None, Tensor]] = {}
    with _watched(model, found), torch.no_grad():
        out = model(x)
    found["output"] = (None, out)
    return found


def equivariance_errors(model: nn.Module, image: Tensor, elements: Sequence[Element]) -> list[LayerError]:
    """The error of every layer and of the output under every element.

    An output of class scores is to stay, one of label maps is to turn.

    Args:
        model: A network with steerable layers; it is put in evaluation mode for the time.
        image: (B, C, H, W).
        elements: Turns of the image.

    Raises:
        ModelError: If it has no steerable layer.
    """
    training = model.training
    model.eval()
    try:
        plain = layer_outputs(model, image)
        types = [kind for kind, _ in plain.values() if kind is not None]
        if not types:
            raise ModelError(
                f"{type(model).__name__} has no steerable layer", remedy="Build it with group: C4, D4 or O2."
            )
        rows: list[LayerError] = []
        for element in elements:
            turned = layer_outputs(model, turn_image(image, element))
            group = types[0].group
            for name, (kind, before) in plain.items():
                group = kind.group if kind is not None else types[-1].group
                promised = group.has(element)
                if kind is not None and promised:
                    wanted = turn_fields(before, kind, element)
                else:
                    wanted = turn_image(before, element) if before.dim() == 4 else before
                error = relative_error(turned[name][1], wanted)
                degrees = math.degrees(element.angle)
                rows.append(LayerError(name, str(group), degrees, element.mirrored, promised, error))
        return rows
    finally:
        model.train(training)


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖ / ‖wanted‖, within the disc that every turn leaves in the image."""
    if wanted.dim() == 4:
        rows, columns = wanted.shape[-2:]
        y = torch.arange(rows) - (rows - 1) / 2
        x = torch.arange(columns) - (columns - 1) / 2
        inside = y[:, None] ** 2 + x**2 <= (min(rows, columns) / 2) ** 2
        found, wanted = (t * inside.to(t) for t in (found, wanted))
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))


@contextmanager
def _watched(model: nn.Module, found: dict[str, tuple[FieldType | None, Tensor]]) -> Iterator[None]:
    def watch(name: str, layer: SteerableModule) -> object:
        def keep(_module: nn.Module, _inputs: object, out: Tensor) -> None:
            found[name] = (layer.out_type, out.detach())

        return layer.register_forward_hook(keep)

    handles = [watch(name, m) for name, m in model.named_modules() if isinstance(m, SteerableModule)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()  # pyright: ignore[reportAttributeAccessIssue]
