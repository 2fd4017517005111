# SPDX-License-Identifier: Apache-2.0
"""Turning images and fields: the oracle of the equivariance tests.

Quarter turns and mirrors of the grid are exact; other angles are had by drawing a smooth picture again in
turned coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
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
    worst, plain = 0.0, layer(x)
    for element, _ in grid_symmetries(group or rep_in.group):
        gap = layer(act(x, rep_in, element)) - act(plain, rep_out, element)
        worst = max(worst, float(gap.abs().max() / plain.abs().max()))
    return worst


@dataclass(frozen=True)
class Picture:
    """Smooth blobs on a plane: (channels, blobs, 5) of x, y, width, height and sharpness."""

    blobs: Tensor

    @classmethod
    def random(cls, channels: int, source: torch.Generator) -> Picture:
        """Blobs within 8 pixels of the centre, none narrower than 2.5 pixels."""
        r = torch.rand(channels, 6, 5, generator=source, dtype=torch.float64)
        place = (r[..., :2] - 0.5) * 16
        return cls(torch.cat([place, 2.5 + 2 * r[..., 2:3], 2.5 + 2 * r[..., 3:4], r[..., 4:] * 2 - 1], -1))

    def draw(self, side: int, element: Element) -> Tensor:
        """(1, channels, side, side) in float32: the picture mirrored and turned by the element."""
        half = (side - 1) / 2
        y, x = torch.meshgrid(
            half - torch.arange(side, dtype=torch.float64),
            torch.arange(side, dtype=torch.float64) - half,
            indexing="ij",
        )
        c, s = math.cos(element.angle), math.sin(element.angle)
        x, y = c * x + s * y, c * y - s * x  # g⁻¹: turned back,
        x = -x if element.mirrored else x  # and mirrored back
        px, py, wx, wy, height = self.blobs.unbind(-1)
        dx = (x - px[..., None, None]) / wx[..., None, None]
        dy = (y - py[..., None, None]) / wy[..., None, None]
        drawn = torch.exp(-0.5 * (dx**2 + dy**2)) * height[..., None, None]
        return drawn.sum(1)[None].float()


def error_at_centre(
    layer: Callable[[Tensor], Tensor],
    rep_out: Representation,
    element: Element,
    *,
    channels: int,
    side: int,
    source: torch.Generator,
) -> float:
    """|layer(g·x) − g·layer(x)| at the centre pixel over |layer(x)| there, for one random picture."""
    picture = Picture.random(channels, source)
    with torch.no_grad():
        plain = layer(picture.draw(side, Element()))[0, :, side // 2, side // 2]
        turned = layer(picture.draw(side, element))[0, :, side // 2, side // 2]
    matrix = torch.from_numpy(rep_out(element)).float()
    wanted = (plain.view(-1, rep_out.size) @ matrix.t()).flatten()
    return float((turned - wanted).norm() / plain.norm())
