# SPDX-License-Identifier: Apache-2.0
"""A steerable kernel in two steps, through the irreducible representations of its group.

By Schur's lemma every kernel from ρ_in to ρ_out is a sum of products

    kernel(x) = E · Φ(x),   Φ: ρ_in → ψ a steerable kernel,   E: ψ → ρ_out a constant intertwiner,

over the irreducible representations ψ of the group. So the gradient of a coefficient needs no expanded
filter: the image is filtered by the few Φ, the output gradient is mixed by E, and one product of the two over
the pixels is left. For a regular representation of N channels that is about N times less work and memory
than the gradient of the expanded filter, because blocks of different ψ never meet: the sparsity of a
regular basis (one number in N), seen in the Fourier domain of the group. Schur's lemma for steerable
kernels: Lang & Weiler (2021), arXiv:2010.10952.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from confide.equivariant.groups import Group
from confide.equivariant.harmonics import ring_functions
from confide.equivariant.kernels import intertwiners, kernel_basis
from confide.equivariant.representations import Array, Irrep, Representation

_SPAN = 1e-9  # rounding of exact spans is far below, a missing direction far above


@dataclass(frozen=True, eq=False)
class Passage:
    """All kernels that pass through one irreducible representation ψ of c channels.

    Attributes:
        leaving: E, (r, d_out, c): intertwiners ψ → ρ_out.
        entering: Φ, (s, c, d_in, k, k): steerable kernels ρ_in → ψ, of squared norm c.
    """

    leaving: Array
    entering: Array


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Passages whose products E·Φ are an orthonormal basis of the span of `kernel_basis`.

    Attributes:
        passages: One for each ψ that connects the two.
        to_basis: (K, K), orthogonal. D @ to_basis turns inner products with the products, r-major within a
            passage, into inner products with the basis; lengths stay.
    """

    passages: tuple[Passage, ...]
    to_basis: Array


def irreducibles(group: Group, top: int) -> tuple[Representation, ...]:
    """The irreducible representations of a finite group; of SO(2) and O(2), those up to frequency `top`."""
    highest = group.rotations // 2 if group.finite else top
    found: list[Representation] = []
    for k in range(highest + 1):
        flips = group.reflections and Irrep(k).size(group) == 1
        found += [Representation(group, (Irrep(k, parity),)) for parity in range(2 if flips else 1)]
    return tuple(found)


@lru_cache(maxsize=128)
def spectrum(
    rep_in: Representation, rep_out: Representation, kernel_size: int, frequency_cutoff: int | None = None
) -> Spectrum | None:
    """The passages of `kernel_basis` with the same arguments.

    None where sampling makes the products dependent, which a cut-off near the grid's band limit can do.

    Why products are orthonormal: EᵀE' commutes with ψ, and Φ is orthogonal to what commuting maps make of
    any other; of Φ itself they make a multiple, or something orthogonal to it.
    """
    basis = kernel_basis(rep_in, rep_out, kernel_size, frequency_cutoff).kernels
    passages: list[Passage] = []
    products: list[Array] = []
    for psi in irreducibles(rep_in.group, rep_out.frequency):
        leaving = intertwiners(psi, rep_out, 0)[..., 0]
        if len(leaving):
            entering = _entering(rep_in, psi, kernel_size, frequency_cutoff)
            if len(entering):
                passages.append(Passage(leaving, entering))
                both = np.einsum("rac,scbxy->rsabxy", leaving, entering)
                products.append(both.reshape(-1, basis[0].size))
    found, flat = np.concatenate(products), basis.reshape(len(basis), -1)
    mixing = found @ flat.T
    square = mixing.shape[0] == mixing.shape[1]
    if not square or np.abs(mixing @ flat - found).max() > _SPAN:
        return None
    if np.abs(mixing @ mixing.T - np.eye(len(mixing))).max() > _SPAN:
        return None
    return Spectrum(tuple(passages), mixing)


def _entering(
    rep_in: Representation, psi: Representation, kernel_size: int, frequency_cutoff: int | None
) -> Array:
    """Sampled kernels ρ_in → ψ, orthogonal to all that endomorphisms of ψ make of the others, (s, c, d_in, k,
    k).

    The rotations' two-dimensional ψ have endomorphisms besides the scalars (C instead of R); products with E
    would count what they reach twice.
    """
    sampled = np.concatenate(
        [
            np.einsum("kcbm,mxy->kcbxy", intertwiners(rep_in, psi, f.frequency), f.values)
            for f in ring_functions(kernel_size, frequency_cutoff)
        ]
    )
    own = intertwiners(psi, psi, 0)[..., 0]  # (e, c, c)
    kept: list[Array] = []
    reached = np.empty((0, sampled[0].size if len(sampled) else 0))
    for kernel in sampled:
        rest = kernel.reshape(-1)
        for _ in range(2):  # once would leave the rounding of what is taken away
            rest = rest - rest @ reached.T @ reached
        length = np.linalg.norm(rest)
        if length > 1e-6 * np.linalg.norm(kernel):
            kept.append(rest.reshape(kernel.shape) * (psi.size**0.5 / length))
            turned = np.einsum("eac,cbxy->eabxy", own, kept[-1]).reshape(len(own), -1)
            q, _ = np.linalg.qr(np.concatenate([reached, turned]).T)
            reached = q.T
    return np.stack(kept) if kept else sampled[:0]
