# SPDX-License-Identifier: Apache-2.0
"""Bases of steerable kernels, by group averages.

A kernel k(x) = Σ C[a, b, m] R(|x|) Y_m(angle x) is steerable,

    k(gx) = ρ_out(g) k(x) ρ_in(g)⁻¹  for every g,

exactly if C is a fixed vector of ρ_out ⊗ ρ_in ⊗ ρ_μ. How many independent ones there are is the mean over
the group of the product of the three characters, an exact integer. The vectors themselves are group
averages of unit tensors, orthonormalised in a fixed order. There is no singular value decomposition and no
tolerance that decides a rank, so two machines get the same basis and can exchange weights. Weiler & Cesa
(2019), arXiv:1911.08251, section 2.4.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from confide.equivariant.harmonics import harmonic, ring_functions
from confide.equivariant.representations import Array, Representation, trivial
from confide.errors import ConfigError

_ZERO = 1e-8  # norms of exact averages are far above this or rounding errors far below


@dataclass(frozen=True, eq=False)
class KernelBasis:
    """An orthonormal basis of sampled steerable kernels.

    Attributes:
        kernels: (K, d_out, d_in, k, k), float64.
        planar: (F, k·k): an orthonormal basis of the planar functions that the kernels are made of.
        free: The compact form, where the output is a regular representation and the input a permutation.
    """

    kernels: Array
    planar: Array
    free: FreeBasis | None


@dataclass(frozen=True, eq=False)
class FreeBasis:
    """A basis in which every kernel is one of f filters, moved along one of J orbits of channel pairs.

    Only one in |G| of its numbers differs from zero: kernel j·f + i has, for output channel a, the filter
    `filters[a, i]` at input channel b where `orbits[a, b] == j`, and zero elsewhere.

    Attributes:
        filters: (d_out, f, k·k).
        orbits: (d_out, d_in) integers from 0 to J − 1.
    """

    filters: Array
    orbits: npt.NDArray[np.int64]


def orthonormal_rows(rows: Iterable[Array], rank: int | None = None, tolerance: float = _ZERO) -> Array:
    """Gram–Schmidt, first come first served, (n, d) → (rank, d); dependent rows are dropped."""
    found: list[Array] = []
    for row in rows:
        vector = row / max(float(np.linalg.norm(row)), 1e-300)
        if found:
            known = np.stack(found)
            for _ in range(2):  # a second pass removes what rounding left over from the first
                vector = vector - (known @ vector) @ known
        length = float(np.linalg.norm(vector))
        if length > tolerance:
            found.append(vector / length)
        if len(found) == rank:
            break
    return np.stack(found) if found else np.empty((0, 0))


def orthonormal_kernels(kernels: Array, tolerance: float = 1e-6) -> Array:
    """Gram–Schmidt of kernels (n, d_out, d_in, k, k), among those that share a channel pair."""
    pairs = np.abs(kernels).max((3, 4)).reshape(len(kernels), -1) > _ZERO
    parts: list[
        tuple[npt.NDArray[np.bool_], list[int]]
    ] = []  # channel pairs and numbers of kernels that hang together
    for i, mask in enumerate(pairs):
        if not mask.any():  # a wave whose zeros are the grid's points
            continue
        touching = [part for part in parts if (part[0] & mask).any()]
        parts = [part for part in parts if not (part[0] & mask).any()]
        union = np.logical_or.reduce([mask, *(part[0] for part in touching)])
        parts.append((union, sorted([i, *(j for part in touching for j in part[1])])))
    found: list[Array] = []
    for mask, numbers in sorted(parts, key=lambda part: part[1]):
        some = kernels[numbers].reshape(len(numbers), len(mask), -1)[:, mask]
        rows = orthonormal_rows(some.reshape(len(numbers), -1), tolerance=tolerance)
        full = np.zeros((len(rows), len(mask), kernels.shape[3] * kernels.shape[4]))
        full[:, mask] = rows.reshape(len(rows), int(mask.sum()), -1)
        found.append(full)
    return np.concatenate(found).reshape(-1, *kernels.shape[1:])


@lru_cache(maxsize=256)
def dimension(rep_in: Representation, rep_out: Representation, frequency: int) -> int:
    """Number of independent intertwiners: the mean of the product of characters."""
    elements = rep_in.group.elements(_enough_rotations(rep_in, rep_out, frequency))
    product = [
        np.trace(rep_out(g)) * np.trace(rep_in(g)) * np.trace(harmonic(frequency, g)) for g in elements
    ]
    return round(float(np.mean(product)))


@lru_cache(maxsize=256)
def intertwiners(rep_in: Representation, rep_out: Representation, frequency: int) -> Array:
    """Orthonormal basis (K, d_out, d_in, d_μ) of the fixed vectors of ρ_out ⊗ ρ_in ⊗ ρ_μ.

    Raises:
        ConfigError: If the representations are not of one group.
    """
    _check_same_group(rep_in, rep_out)
    elements = rep_in.group.elements(_enough_rotations(rep_in, rep_out, frequency))
    a, b = (np.stack([rep(g) for g in elements]) for rep in (rep_out, rep_in))
    m = np.stack([harmonic(frequency, g) for g in elements])
    rank = dimension(rep_in, rep_out, frequency)
    shape = (rank, rep_out.size, rep_in.size, m.shape[1])
    if rank == 0:
        return np.empty(shape)

    def averages() -> Iterable[Array]:
        for i, j, k in itertools.product(*(range(matrices.shape[1]) for matrices in (a, b, m))):
            pairs = a[:, :, None, i] * b[:, None, :, j]
            average = np.tensordot(pairs, m[:, :, k], ((0,), (0,))) / len(elements)
            if np.linalg.norm(average) > _ZERO:
                yield average.ravel()

    found = orthonormal_rows(averages(), rank)
    if len(found) != rank:  # pragma: no cover - the characters and the averages are two counts of one thing
        raise ArithmeticError(
            f"{len(found)} intertwiners where characters count {rank}: {rep_in} to {rep_out}"
        )
    return found.reshape(shape)


@lru_cache(maxsize=128, typed=True)  # 3.0 is no side, although it equals 3
def kernel_basis(
    rep_in: Representation, rep_out: Representation, kernel_size: int, frequency_cutoff: int | None = None
) -> KernelBasis:
    """The sampled steerable kernels from one field to another.

    Under L2 clipping and isotropic noise any two orthonormal bases of a space give the same DP-SGD, so that
    which one this is does not matter; that it is orthonormal does.

    Args:
        rep_in: Representation of an input field.
        rep_out: Representation of an output field.
        kernel_size: Side of the kernel, odd.
        frequency_cutoff: See `ring_functions`.

    Raises:
        ConfigError: If the groups differ, the grid cannot carry the cut-off, or some output block has no
            kernel.
    """
    functions = ring_functions(kernel_size, frequency_cutoff)
    parts = [
        np.einsum("kabm,mxy->kabxy", intertwiners(rep_in, rep_out, f.frequency), f.values) for f in functions
    ]
    sampled = np.concatenate(parts)
    _check_reached(rep_in, rep_out, sampled, kernel_size, max(f.frequency for f in functions))
    kernels = orthonormal_kernels(sampled)
    planar = orthonormal_rows(
        np.concatenate([f.values.reshape(len(f.values), -1) for f in functions]), tolerance=1e-6
    )
    return _sorted_by_orbit(kernels, planar)


@lru_cache(maxsize=256)
def invariants(rep: Representation) -> Array:
    """Orthonormal basis (K, d) of the vectors that ρ leaves fixed: where a bias or a mean may live."""
    return intertwiners(trivial(rep.group), rep, 0)[:, :, 0, 0]


def _sorted_by_orbit(kernels: Array, planar: Array) -> KernelBasis:
    """Find the orbits of a sparse basis and put the kernels of an orbit side by side."""
    k, d_out, d_in = kernels.shape[:3]
    dense = KernelBasis(kernels, planar, None)
    support = np.abs(kernels).max((3, 4)) > _ZERO  # (K, d_out, d_in)
    members = [np.flatnonzero(support[:, 0, b]) for b in range(d_in)]
    sizes = {len(found) for found in members}
    if len(sizes) != 1 or sum(map(len, members)) != k or len(set(np.concatenate(members).tolist())) != k:
        return dense
    ordered = kernels[np.concatenate(members)]
    f = sizes.pop()
    by_orbit = ordered.reshape(d_in, f, d_out, d_in, -1)
    lengths = np.abs(by_orbit).max((1, 4))  # (J, d_out, d_in)
    if not ((lengths > _ZERO).sum(0) == 1).all() or not ((lengths > _ZERO).sum(2) == 1).all():
        return dense
    orbits = lengths.argmax(0)
    filters = np.stack([by_orbit[orbits[a, 0], :, a, 0] for a in range(d_out)])
    free = FreeBasis(filters, orbits)
    return (
        KernelBasis(ordered, planar, free)
        if np.abs(spread(free) - ordered.reshape(k, d_out, d_in, -1)).max() < _ZERO
        else dense
    )


def spread(free: FreeBasis) -> Array:
    """The full basis (K, d_out, d_in, k·k) of a compact one."""
    d_out, f, pixels = free.filters.shape
    d_in = free.orbits.shape[1]
    full = np.zeros((d_in, f, d_out, d_in, pixels))
    for a, b in itertools.product(range(d_out), range(d_in)):
        full[free.orbits[a, b], :, a, b] = free.filters[a]
    return full.reshape(d_in * f, d_out, d_in, pixels)


def _enough_rotations(rep_in: Representation, rep_out: Representation, frequency: int) -> int:
    """Rotations to average over: beyond the highest frequency, C_n is as good as SO(2)."""
    return rep_in.group.rotations or rep_in.frequency + rep_out.frequency + frequency + 1


def _check_same_group(rep_in: Representation, rep_out: Representation) -> None:
    if rep_in.group != rep_out.group:
        raise ConfigError(
            f"no kernel connects fields of {rep_in.group} with fields of {rep_out.group}",
            remedy="Restrict the larger group to the smaller one first.",
        )


def _check_reached(
    rep_in: Representation, rep_out: Representation, kernels: Array, side: int, highest: int
) -> None:
    """Every output channel must be the result of some kernel, or it is dead from the start."""
    reached = np.abs(kernels).max((0, 2, 3, 4), initial=0.0) > _ZERO
    start = 0
    for block, size in zip(rep_out.blocks, rep_out.sizes, strict=True):
        if not reached[start : start + size].all():
            needed = abs(block.frequency - rep_in.frequency)
            raise ConfigError(
                f"no steerable kernel of side {side} leads from {rep_in} to {block}",
                why=f"It needs angular frequency {needed}, and this grid carries up to {highest}"
                if needed > highest
                else "No frequency and parity that this grid carries connects the two",
                remedy="Take a larger kernel or lower frequencies.",
            )
        start += size
