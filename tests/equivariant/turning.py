# SPDX-License-Identifier: Apache-2.0
"""Turning images and fields: the oracle of the equivariance tests.

Quarter turns and mirrors of the grid are exact; other angles are had by drawing a smooth picture again in
turned coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from tests.equivariant.pictures import Picture
from torch import Tensor

from confide.equivariant import Element, Group, Representation

QUARTER = math.pi / 2


def grid_symmetries(group: Group) -> Iterator[tuple[Element, int]]:
    """Elements that map a square grid on itself, with their number of quarter turns."""
    turns = 4 if group.rotations == 0 else math.gcd(group.rotations, 4)
    for mirrored in (False, True) if group.reflections else (False,):
        for i in range(turns):
            quarters = i * 4 // turns
            yield Element(quarters * QUARTER, mirrored), quarters


def turn(x: Tensor, element: Element) -> Tensor:
    """The image x (..., H, W) mirrored left–right, if asked for, and then turned counter-clockwise."""
    quarters = round(element.angle / QUARTER)
    return torch.rot90(x.flip(-1) if element.mirrored else x, quarters, (-2, -1))


def act(x: Tensor, rep: Representation, element: Element) -> Tensor:
    """ρ(g) x(g⁻¹ ·) on fields (B, C, H, W), for a symmetry of the grid."""
    matrix = torch.from_numpy(rep(element)).to(x.dtype)
    fields = turn(x, element).unflatten(1, (-1, rep.size))
    return torch.einsum("ab,nmbhw->nmahw", matrix, fields).flatten(1, 2)


def error_on_grid(
    layer: Callable[[Tensor], Tensor],
    rep_in: Representation,
    rep_out: Representation,
    x: Tensor,
    group: Group | None = None,
) -> float:
    """Largest |layer(g·x) − g·layer(x)| over the grid's symmetries, relative to the largest output."""
    worst, plain = 0.0, layer(x).detach()
    for element, _ in grid_symmetries(group or rep_in.group):
        gap = layer(act(x, rep_in, element)).detach() - act(plain, rep_out, element)
        worst = max(worst, float(gap.abs().max() / plain.abs().max()))
    return worst


def error_at_centre(
    layers: Iterable[Callable[[Tensor], Tensor]],
    rep_out: Representation,
    element: Element,
    *,
    acting: Element | None = None,
    side: int = 29,
) -> float:
    """Σ |layer(g·x) − g·layer(x)| / Σ |layer(x)| at the centre pixel, a new random picture for each layer.

    `acting`: Another element for ρ to act by, where g is not of the group.
    """
    source = torch.Generator().manual_seed(torch.seed())
    matrix = torch.from_numpy(rep_out(acting or element)).float()
    gaps, lengths = 0.0, 0.0
    for layer in layers:
        picture = Picture.random(3, source)
        with torch.no_grad():
            plain = layer(picture.draw(side, 0.0))[0, :, side // 2, side // 2]
            turned = layer(picture.draw(side, element.angle, element.mirrored))[0, :, side // 2, side // 2]
        wanted = (plain.view(-1, rep_out.size) @ matrix.t()).flatten()
        gaps, lengths = gaps + float((turned - wanted).norm()), lengths + float(plain.norm())
    return gaps / lengths
