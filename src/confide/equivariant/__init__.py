# SPDX-License-Identifier: Apache-2.0
"""Steerable layers: convolutions that commute with rotations and mirrors of the image plane.

Tensors are plain (B, C, H, W); each layer knows the `in_type` and `out_type` of its fields.

    group = CyclicGroup(8)
    image = FieldType(trivial(group), 3)
    hidden = FieldType(regular(group), 16)
    layers = SteerableSequential(
        {
            "conv": SteerableConv2d(image, hidden),
            "act": PointwiseNonlinearity(hidden, nn.ReLU()),
            "norm": FieldGroupNorm(hidden, groups=4),
            "pool": FieldMaxPool2d(hidden),
        }
    )
"""

from __future__ import annotations

# These register the layers' rules with the gradient engine.
from confide.equivariant import persample, persample_norm
from confide.equivariant.dropout import FieldDropout
from confide.equivariant.export import export
from confide.equivariant.fields import FieldType, SteerableModule, SteerableSequential
from confide.equivariant.groups import O2, SO2, CyclicGroup, DihedralGroup, Element, Group, parse_group
from confide.equivariant.invariance import GroupPool, InducedNormPool, InvariantPool, NormPool
from confide.equivariant.layers import Restriction, SteerableConv2d
from confide.equivariant.nonlinearities import GatedNonlinearity, NormNonlinearity, PointwiseNonlinearity
from confide.equivariant.normalization import FieldGroupNorm, ScaleNorm
from confide.equivariant.notes import ExactnessNote
from confide.equivariant.octahedral import (
    OctahedralConv3d,
    OctahedralFields,
    OctahedralGroupNorm,
    OctahedralPool,
)
from confide.equivariant.pooling import BlurPool2d, FieldMaxPool2d, NormMaxPool2d, Upsample2d
from confide.equivariant.representations import Representation, induced, irrep, quotient, regular, trivial

__all__ = [
    "O2",
    "SO2",
    "BlurPool2d",
    "CyclicGroup",
    "DihedralGroup",
    "Element",
    "ExactnessNote",
    "FieldDropout",
    "FieldGroupNorm",
    "FieldMaxPool2d",
    "FieldType",
    "GatedNonlinearity",
    "Group",
    "GroupPool",
    "InducedNormPool",
    "InvariantPool",
    "NormMaxPool2d",
    "NormNonlinearity",
    "NormPool",
    "OctahedralConv3d",
    "OctahedralFields",
    "OctahedralGroupNorm",
    "OctahedralPool",
    "PointwiseNonlinearity",
    "Representation",
    "Restriction",
    "ScaleNorm",
    "SteerableConv2d",
    "SteerableModule",
    "SteerableSequential",
    "Upsample2d",
    "export",
    "induced",
    "irrep",
    "parse_group",
    "persample",
    "persample_norm",
    "quotient",
    "regular",
    "trivial",
]
