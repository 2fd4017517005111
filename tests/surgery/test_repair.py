# SPDX-License-Identifier: Apache-2.0
"""Repair replaces what must go, keeps what still means something, and touches nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from confide.errors import ModelError, UnsupportedLayerError
from confide.surgery.inspect import inspect
from confide.surgery.layers import ChannelScale
from confide.surgery.repair import repair


class OwnBatchNorm(nn.BatchNorm2d):
    """A subclass, as detection and federated libraries bring them."""


KINDS = [
    (nn.BatchNorm1d, (3, 48)),
    (nn.BatchNorm1d, (3, 48, 9)),
    (nn.BatchNorm2d, (3, 48, 4, 4)),
    (nn.BatchNorm3d, (3, 48, 2, 2, 2)),
    (OwnBatchNorm, (3, 48, 4, 4)),
    (nn.SyncBatchNorm, (3, 48, 4, 4)),
]


def marked(layer: nn.Module) -> nn.Module:
    """The layer with random weights and statistics."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*layer.parameters(), *layer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return layer


@pytest.mark.parametrize("norm", ["group", "instance", "layer", "scale"])
@pytest.mark.parametrize(
    ("kind", "shape"), KINDS, ids=lambda v: v.__name__ if isinstance(v, type) else str(len(v))
)
def test_every_kind_becomes_every_norm(kind: type[nn.Module], shape: tuple[int, ...], norm: str) -> None:
    if norm == "instance" and len(shape) == 2:
        pytest.skip("a vector has no instance statistics")
    old = marked(kind(48))
    new = repair(nn.Sequential(nn.Identity(), old), norm, example=torch.randn(shape))[1]
    assert inspect(new, torch.randn(shape)) == []
    if norm != "scale":
        assert torch.equal(new.weight, old.weight)
        assert torch.equal(new.bias, old.bias)
    alone, together = torch.randn(shape), torch.randn(shape)
    together[0] = alone[0]
    assert torch.allclose(new(alone)[0], new(together)[0], atol=1e-6)
    assert new(alone).std() > 0.1, "the norm erased its input"


@pytest.mark.parametrize(("channels", "groups"), [(48, 24), (64, 32), (47, 1), (1, 1), (6, 3), (96, 32)])
def test_group_counts_fit(channels: int, groups: int) -> None:
    new = repair(nn.Sequential(nn.Conv2d(1, channels, 3), nn.BatchNorm2d(channels)))[1]
    assert isinstance(new, nn.GroupNorm)
    assert new.num_groups == groups


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 8, 12, 32, 47])
def test_vectors_survive(channels: int) -> None:
    """GroupNorm(C, C) on vectors (B, C) would erase them: opacus issue 567."""
    new = repair(nn.Sequential(nn.Linear(6, channels), nn.BatchNorm1d(channels)))
    out = new(torch.randn(500, 6))
    assert out.std(0).min() > 0.05
    # Not merely signs: many different values.
    assert len(out[:, 0].unique()) > 400


def test_groups_by_choice() -> None:
    model = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12))
    assert repair(model, groups=3)[1].num_groups == 3
    with pytest.raises(ModelError, match=r"layer '1'.*5 groups.*12"):
        repair(model, groups=5)
    with pytest.raises(ModelError, match="norm='layer'"):
        repair(model, "layer", groups=3)
    with pytest.raises(ModelError, match=r"batch.*group, instance, layer, scale"):
        repair(model, "batch")
    with pytest.raises(ModelError, match="str"):
        repair("resnet18")  # pyright: ignore[reportArgumentType]


def test_the_given_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), marked(nn.BatchNorm2d(4)), nn.ReLU(inplace=True))
    before, text = copy.deepcopy(model.state_dict()), str(model)
    new = repair(model)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.zero_()
    assert str(model) == text
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_dtype_mode_and_flags_are_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)).to(
        torch.bfloat16
    )
    model[1].weight.requires_grad_(False)
    model.train()
    model[1].eval()
    for norm in ("group", "instance", "layer", "scale"):
        new = repair(model, norm)
        assert new[1].weight.dtype == torch.bfloat16
        assert not new[1].weight.requires_grad
        assert new[1].bias.requires_grad
        assert [layer.training for layer in new] == [True, False, True]
        assert not [p for p in new[2].parameters() if p.requires_grad]
    assert not repair(model.eval()).training


def test_shared_layers_and_tied_weights_stay_shared() -> None:
    norm = nn.BatchNorm2d(4)
    other = nn.BatchNorm2d(4)
    other.weight = norm.weight
    model = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Conv2d(4, 4, 3), norm, other)
    new = repair(model)
    assert new[1] is new[3]
    assert new[4].weight is new[1].weight
    assert new[1].weight is not norm.weight


def test_in_place_activations_and_running_statistics_are_switched_off() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        marked(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
        nn.ReLU6(inplace=True),
    )
    new = repair(model)
    assert inspect(new) == []
    assert new[1].running_mean is None
    assert torch.equal(new[1].weight, model[1].weight)
    assert not new[2].inplace
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(new.eval()(x), new.train()(x))


@pytest.mark.parametrize("norm", ["group", "instance", "layer", "scale"])
def test_lazy_batch_norm_stays_lazy(norm: str) -> None:
    model = nn.Sequential(nn.LazyConv2d(12, 3), nn.LazyBatchNorm2d(), nn.LazyBatchNorm2d(affine=False))
    new = repair(model, norm)
    assert new[1].has_uninitialized_params(), "repair must not choose the input for the user"
    out = new(torch.randn(2, 5, 8, 8))
    assert out.shape == (2, 12, 6, 6)
    assert inspect(new) == []
    if norm == "group":
        assert type(new[1]) is nn.GroupNorm
        assert (new[1].num_groups, new[1].num_channels, new[2].num_groups) == (6, 12, 6)
        assert torch.equal(new[1].weight, torch.ones(12))
    assert not [p for p in new[2].parameters() if p.requires_grad]


def test_lazy_instance_norm_passes() -> None:
    new = repair(
        nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyInstanceNorm2d(affine=True, track_running_stats=True))
    )
    new(torch.randn(2, 1, 8, 8))
    assert inspect(new) == []


@pytest.mark.parametrize("affine", [True, False])
def test_scale_computes_what_evaluation_mode_did(affine: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), marked(nn.BatchNorm2d(4, affine=affine))).double().eval()
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    new = repair(model, "scale")
    assert isinstance(new[1], ChannelScale)
    assert torch.allclose(new(x), model(x), atol=1e-12)
    assert new[1].weight.requires_grad is affine


def test_frozen_layers_are_replaced_or_folded() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), marked(nn.BatchNorm2d(4)), marked(nn.BatchNorm2d(4)))
    model[1].eval()
    assert isinstance(repair(model)[1], nn.GroupNorm)
    folded = repair(model, fold_frozen=True)
    assert isinstance(folded[1], ChannelScale)
    assert isinstance(folded[2], nn.GroupNorm)
    model[2].requires_grad_(False)
    assert isinstance(repair(model, fold_frozen=True)[2], ChannelScale)
    assert inspect(folded) == []


def test_a_model_that_is_itself_a_batch_norm() -> None:
    assert isinstance(repair(nn.BatchNorm2d(8)), nn.GroupNorm)


def test_parametrised_weights_are_taken_as_they_are_now() -> None:
    norm = marked(nn.BatchNorm2d(4))
    nn.utils.parametrize.register_parametrization(norm, "weight", nn.Softplus())
    new = repair(nn.Sequential(nn.Conv2d(1, 4, 3), norm))
    assert torch.equal(new[1].weight, norm.weight)
    assert isinstance(new[1].weight, nn.Parameter)


class CentreBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_what_cannot_be_mended_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedLayerError, match=r"'2' \(CentreBatch\) mixes"):
        repair(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), CentreBatch()))


def test_a_fully_frozen_model_can_be_repaired() -> None:
    assert (
        inspect(repair(nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)))[0].layer
        == ""
    )
