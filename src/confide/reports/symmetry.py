# SPDX-License-Identifier: Apache-2.0
"""What turning the image does to a steerable network: its scores angle by angle, and the filters it learned.

Measured on a drawn picture: nothing here sees an image of the data set, so the guarantee is not touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from confide.errors import ConfideError
from confide.experiments.record import Run
from confide.experiments.trained import input_form, trained_model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from confide.equivariant import Element, Group, SteerableConv2d

_FIELDS, _ORIENTATIONS = 4, 8  # filters shown, and copies of each
_STEP = 15  # degrees
_SIDE = 64  # pixels of the drawn picture at most, lest a report take seconds longer


@dataclass(frozen=True)
class Turn:
    """The change of the answer under one turn.

    Attributes:
        angle: Degrees, counter-clockwise.
        mirrored: Whether the image was mirrored first.
        promised: Whether the network's group has that turn.
        change: ‖f(g·x) − f(x)‖ / ‖f(x)‖ of scores; of label maps, that of the turned map.
    """

    angle: float
    mirrored: bool
    promised: bool
    change: float

    @property
    def exact(self) -> bool:
        """Whether the turn is promised and only moves pixels, so that nothing but rounding may change."""
        return self.promised and self.angle % 90 == 0 and (self.mirrored or self.angle != 0)


@dataclass(frozen=True)
class Symmetry:
    """What is known of a steerable network.

    Attributes:
        group: The group that the answer follows.
        words: What it lets be done to an image; empty if nothing.
        turns: The change of the answer, by angle.
        filters: (F, O, k, k): filters of the first convolution, each in O channels of its field.
        labels: The orientation of each of these channels; none where turning mixes them.
        maps: Whether the answer is a label map, which is to turn with the image.
        side: Pixels along the drawn picture.
    """

    group: str
    words: str
    turns: tuple[Turn, ...]
    filters: NDArray[np.float64]
    labels: tuple[str, ...]
    maps: bool
    side: int

    def to_dict(self) -> dict[str, Any]:
        """For report.json."""
        turns = [
            {"angle": t.angle, "mirrored": t.mirrored, "promised": t.promised, "change": t.change}
            for t in self.turns
        ]
        return {
            "group": self.group,
            "picture": f"drawn, {self.side}×{self.side} pixels, of no patient",
            "turns": turns,
        }


def symmetry_of(run: Run) -> Symmetry | None:
    """Measure a run's trained model; None where it is not steerable, or cannot be built.

    That a model cannot be built is said where the page wants to show what it looked at.
    """
    if run.model_path is None or run.record.model.options.get("group") in (None, "none"):
        return None
    try:
        model, form = trained_model(run), input_form(run)
    except ConfideError:
        return None
    from confide.equivariant import SteerableConv2d
    from confide.equivariant.pictures import blobs

    convolutions = [m for m in model.modules() if isinstance(m, SteerableConv2d)]
    if not convolutions:
        return None
    return measured(model, blobs(form.channels, min(*form.size, _SIDE)))


def measured(model: nn.Module, picture: Tensor) -> Symmetry:
    """The symmetry of a network with steerable convolutions.

    Args:
        model: In evaluation mode.
        picture: (1, C, H, H).
    """
    from confide.equivariant import SteerableConv2d, SteerableModule

    group = [m for m in model.modules() if isinstance(m, SteerableModule)][-1].in_type.group
    first = next(m for m in model.modules() if isinstance(m, SteerableConv2d))
    turns, maps = _turns(model, picture, group)
    return Symmetry(
        str(group), group_words(group), turns, _filters(first), _orientations(first), maps, picture.shape[-1]
    )


def group_words(group: Group) -> str:
    """What may be done to an image, in words; empty for a group that has nothing but the identity.

    >>> from confide.equivariant import CyclicGroup, DihedralGroup
    >>> group_words(CyclicGroup(4)), group_words(DihedralGroup(8))
    ('turned by quarters', 'turned by multiples of 45° or mirrored')
    """
    n = group.rotations
    named = {0: "turned by any angle", 1: "", 2: "turned by half", 4: "turned by quarters"}
    turned = named[n] if n in named else f"turned by multiples of {360 / n:g}°"
    return " or ".join(word for word in (turned, "mirrored" if group.reflections else "") if word)


def _turns(model: nn.Module, picture: Tensor, group: Group) -> tuple[tuple[Turn, ...], bool]:
    """A turn every 15°, and those of the group."""
    import torch

    from confide.equivariant import Element
    from confide.equivariant.measure import relative_error, turn_image

    own = [360 * i / group.rotations for i in range(group.rotations)]
    angles = sorted({*map(float, range(0, 360, _STEP)), *own})
    elements = [Element(math.radians(a), m) for m in (False, True)[: 1 + group.reflections] for a in angles]
    turned = torch.cat([turn_image(picture, element) for element in elements])
    with torch.no_grad():
        outputs = torch.cat([model(some) for some in turned.split(8)])  # images of a batch do not meet
    plain, maps = outputs[:1], outputs.dim() == 4

    def turn(element: Element, out: Tensor) -> Turn:
        wanted = turn_image(plain, element) if maps else plain
        degrees = round(math.degrees(element.angle), 6)
        change = relative_error(out[None], wanted)
        return Turn(degrees, element.mirrored, group.has(element), change)

    return tuple(turn(e, out) for e, out in zip(elements, outputs, strict=True)), maps


def _filters(conv: SteerableConv2d) -> NDArray[np.float64]:
    """The first learned filters, averaged over the image's channels: (F, O, k, k)."""
    filters = conv.expand()[0].detach().double().mean(1).cpu().numpy()
    fields = filters.reshape(conv.out_type.multiplicity, conv.out_type.rep.size, *filters.shape[1:])
    return fields[:_FIELDS, :_ORIENTATIONS]


def _orientations(conv: SteerableConv2d) -> tuple[str, ...]:
    """What the channels of a regular field are called: one for each element of the group."""
    from confide.equivariant import regular

    rep = conv.out_type.rep
    if not rep.group.finite or rep != regular(rep.group):
        return ()
    names = [f"{'m ' if e.mirrored else ''}{math.degrees(e.angle):.4g}°" for e in rep.group.elements()]
    return tuple(names[:_ORIENTATIONS])
