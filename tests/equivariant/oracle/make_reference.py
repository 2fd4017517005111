# SPDX-License-Identifier: Apache-2.0
"""Store what e2cnn says of steerable kernel spaces, as `e2cnn.npz` beside this file.

An optional job: the tests read the stored figures and need no e2cnn. It wants an environment of its own,
with numpy < 2, torch, and e2cnn 0.2.3, in whose `basisexpansion_singleblock.py` `torch.uint8` and `np.uint8`
have to read `torch.bool` and `bool`, because torch no longer takes bytes for masks:

    python tests/equivariant/oracle/make_reference.py

Of each space of K sampled kernels of n numbers it stores K and P·R, where P is the projector on the space
and R the fixed (n, 3) matrix of `probes`. Two projectors with the same product are the same unless R happens
to miss their difference, which three generic columns do not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

np.float = float  # noqa: NPY001 (e2cnn's irreps still ask for it)

import torch  # noqa: E402
from e2cnn import gspaces, nn  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))
from pictures import Picture  # noqa: E402  # pyright: ignore[reportMissingImports]


def probes(n: int) -> Any:
    """(n, 3) fixed numbers without structure that a group would know."""
    i = np.arange(n)[:, None]
    return np.cos(0.37 * i * np.array([1.0, 1.7, 2.9]) + 0.011 * i**2 + np.array([0.1, 0.5, 1.2]))


def sketch(space: Any, rep_in: Any, rep_out: Any, side: int) -> tuple[int, Any]:
    """Dimension and projected probes of e2cnn's sampled kernels."""
    conv = nn.R2Conv(
        nn.FieldType(space, [rep_in]), nn.FieldType(space, [rep_out]), side, bias=False, initialize=False
    )
    count = conv.weights.numel()
    with torch.no_grad():
        kernels = torch.stack([conv.basisexpansion(e).reshape(-1) for e in torch.eye(count)])
    q, r = np.linalg.qr(kernels.double().numpy().T)
    if np.abs(np.diag(r)).min() < 1e-4:
        raise ArithmeticError("e2cnn's kernels are dependent")
    return count, q @ (q.T @ probes(len(q)))


def spaces() -> Iterator[tuple[str, Any, Any, Any, int]]:
    """Name, e2cnn's space, its two representations and the side."""
    for n in (1, 2, 4, 8, 16):
        space = gspaces.Rot2dOnR2(n) if n > 1 else gspaces.TrivialOnR2()
        for side in (3, 5) if n < 16 else (3,):
            yield f"C{n} trivial regular {side}", space, space.trivial_repr, space.regular_repr, side
            yield f"C{n} regular regular {side}", space, space.regular_repr, space.regular_repr, side
    c8 = gspaces.Rot2dOnR2(8)
    for a, b in ((0, 1), (1, 1), (1, 2), (2, 3), (3, 4), (4, 4)):
        yield f"C8 irrep{a} irrep{b} 5", c8, c8.irrep(a), c8.irrep(b), 5
    for m in (2, 4):
        quotient = c8.quotient_repr(m)
        yield f"C8 quotient{m} regular 3", c8, quotient, c8.regular_repr, 3
        yield f"C8 regular quotient{m} 3", c8, c8.regular_repr, quotient, 3
    for n in (1, 2, 4, 8):
        space = gspaces.FlipRot2dOnR2(n) if n > 1 else gspaces.Flip2dOnR2()
        for side in (3, 5) if n < 8 else (3,):
            yield f"D{n} trivial regular {side}", space, space.trivial_repr, space.regular_repr, side
            yield f"D{n} regular regular {side}", space, space.regular_repr, space.regular_repr, side
    so2 = gspaces.Rot2dOnR2(-1, maximum_frequency=3)
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2), (3, 1)):
        for side in (3, 5):
            if abs(a - b) <= 2:
                yield f"SO2 irrep{a} irrep{b} {side}", so2, so2.irrep(a), so2.irrep(b), side
    o2 = gspaces.FlipRot2dOnR2(-1, maximum_frequency=3)
    even, odd = (0, 0), (1, 0)
    for a, b in (
        (even, (1, 1)),
        (odd, (1, 1)),
        ((1, 1), (1, 1)),
        ((1, 1), (1, 2)),
        ((1, 2), even),
        ((1, 2), odd),
        ((1, 2), (1, 2)),
    ):
        for side in (3, 5):
            yield f"O2 irrep{_name(a)} irrep{_name(b)} {side}", o2, o2.irrep(*a), o2.irrep(*b), side
    yield from _induced(o2)


def _induced(o2: Any) -> Iterator[tuple[str, Any, Any, Any, int]]:
    subgroup = (None, -1)
    rotations = o2.fibergroup.subgroup(subgroup)[0]
    reps = {k: o2.induced_repr(subgroup, rotations.irrep(k)) for k in (0, 1, 2)}
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 2)):
        for side in (3, 5):
            yield f"O2 induced{a} induced{b} {side}", o2, reps[a], reps[b], side
    for side in (3, 5):
        yield f"O2 trivial induced1 {side}", o2, o2.trivial_repr, reps[1], side


def _name(irrep: tuple[int, int]) -> str:
    """Of (flips, frequency): the frequency, and a minus for an odd one-dimensional irrep."""
    return f"{irrep[1]}{'-' if irrep == (1, 0) else ''}"


def error(space: Any, element: Any, angle: float, nets: int = 200) -> float:
    """Error at the centre of four convolutions with ReLU between, turned by an element, over many nets."""
    source = torch.Generator().manual_seed(1)
    image = nn.FieldType(space, 3 * [space.trivial_repr])
    hidden = nn.FieldType(space, 4 * [space.regular_repr])
    matrix = torch.from_numpy(space.regular_repr(element)).float()
    gaps, lengths = 0.0, 0.0
    for _ in range(nets):
        layers: list[Any] = []
        for i in range(4):
            layers.append(nn.R2Conv(hidden if i else image, hidden, 3, padding=1))
            if i < 3:
                layers.append(nn.ReLU(hidden))
        net, picture = nn.SequentialModule(*layers), Picture.random(3, source)
        with torch.no_grad():
            plain, turned = (
                net(nn.GeometricTensor(picture.draw(29, a), image)).tensor[0, :, 14, 14] for a in (0.0, angle)
            )
        wanted = (plain.view(4, -1) @ matrix.t()).flatten()
        gaps, lengths = gaps + float((turned - wanted).norm()), lengths + float(plain.norm())
    return gaps / lengths


def errors() -> dict[str, Any]:
    """Of the groups with elements besides the grid's own."""
    return {
        "error C8 45": np.array(error(gspaces.Rot2dOnR2(8), 1, math.pi / 4)),
        "error C16 22.5": np.array(error(gspaces.Rot2dOnR2(16), 1, math.pi / 8)),
        "error D8 45": np.array(error(gspaces.FlipRot2dOnR2(8), (0, 1), math.pi / 4)),
    }


def main() -> None:
    """Write the file, sorted and compressed."""
    arrays: dict[str, Any] = {}
    for name, space, rep_in, rep_out, side in spaces():
        count, projected = sketch(space, rep_in, rep_out, side)
        arrays[f"{name} count"] = np.array(count)
        arrays[f"{name} probes"] = projected.astype(np.float32)
        print(name, count, flush=True)
    arrays |= errors()
    np.savez_compressed(Path(__file__).with_name("e2cnn.npz"), **arrays)


if __name__ == "__main__":
    main()
