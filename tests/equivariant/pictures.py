# SPDX-License-Identifier: Apache-2.0
"""Smooth pictures that can be drawn in any orientation; nothing here knows confide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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

    def draw(self, side: int, angle: float, mirrored: bool = False) -> Tensor:
        """(1, channels, side, side) in float32: the picture, mirrored if asked for, and then turned."""
        half = (side - 1) / 2
        y, x = torch.meshgrid(
            half - torch.arange(side, dtype=torch.float64),
            torch.arange(side, dtype=torch.float64) - half,
            indexing="ij",
        )
        c, s = math.cos(angle), math.sin(angle)
        x, y = c * x + s * y, c * y - s * x  # g⁻¹: turned back,
        x = -x if mirrored else x  # and mirrored back
        px, py, wx, wy, height = self.blobs.unbind(-1)
        dx = (x - px[..., None, None]) / wx[..., None, None]
        dy = (y - py[..., None, None]) / wy[..., None, None]
        drawn = torch.exp(-0.5 * (dx**2 + dy**2)) * height[..., None, None]
        return drawn.sum(1)[None].float()
