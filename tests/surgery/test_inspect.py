# SPDX-License-Identifier: Apache-2.0
"""Inspection finds by behaviour what no list of types holds, and is silent about what is fine."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import Tensor, nn

from confide.errors import InputError, ModelError
from confide.surgery.findings import Severity
from confide.surgery.inspect import examine, inspect


class CentreBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class Neighbour(nn.Module):
    """Mixes the last sample into the first only."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:1] + 1e-3 * x[-1:], x[1:]])


class Roll(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, 0)


class KeepsBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.mul_(0.9).add_(x.detach().mean())
        return x


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.steps += 1
        return x


class Remembers(nn.Module):
    """An average in a plain attribute, which no buffer shows."""

    def __init__(self) -> None:
        super().__init__()
        self.average = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        out = x - self.average
        self.average = 0.9 * self.average + 0.1 * x.detach().mean()
        return out


class Overwrites(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class ZeroBranch(nn.Module):
    """A residual branch that is zero at the start, with a mixing layer behind the zero."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(4))
        self.centre = CentreBatch()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.centre(self.scale * x)


class SequenceFirst(nn.Module):
    """Attention over the pixels of each image, sequence first and in windows folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        windows = x.flatten(2).reshape(batch, channels, 4, -1).permute(3, 0, 2, 1).flatten(1, 2)
        return self.attention(windows, windows, windows)[0].unflatten(1, (batch, 4))


class CentresBetween(nn.Module):
    """Mixes the batch by itself, in place, between two layers that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y -= y.mean(0, keepdim=True)
        return self.second(y)


class DoublesBetween(nn.Module):
    """What goes into the layer that mixes was overwritten after another layer gave it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), CentreBatch()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y *= 2
        return self.second(y)


class FrozenEncoder(nn.Module):
    """Features that are taken once and for all, in a mode whose tensors count no versions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 4).requires_grad_(False), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            features = self.encoder(x)
        return self.head(features.clone())


class NormalisesParameter(nn.Module):
    """A normalisation that no sample goes into."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.randn(4)), nn.LayerNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.norm(self.scale)


class Flickers(nn.Module):
    """Every second call gives slightly other values, as kernels of a GPU may."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Flickers.calls += 1
        return x + 1e-3 * (Flickers.calls % 2)


def after_linear(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4), layer)


@pytest.mark.parametrize(
    ("layer", "name", "severity", "word"),
    [
        (CentreBatch(), "2", Severity.MUST, "mixes"),
        (Neighbour(), "2", Severity.MUST, "mixes"),
        (ZeroBranch(), "2.centre", Severity.MUST, "mixes"),
        (Roll(), "", Severity.MUST, "row i"),
        (KeepsBuffer(), "2", Severity.MUST, "'seen'"),
        (Remembers(), "", Severity.MUST, "remembers"),
        (Counts(), "2", Severity.NOTE, "'steps'"),
        (nn.GroupNorm(4, 4), "2", Severity.SHOULD, "erases"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_behaviour_is_found_at_its_layer(layer: nn.Module, name: str, severity: Severity, word: str) -> None:
    findings = inspect(after_linear(layer))
    assert [(f.layer, f.severity) for f in findings if word in f.reason] == [(name, severity)]


def test_what_follows_a_mixing_layer_is_not_blamed() -> None:
    findings = inspect(nn.Sequential(nn.Linear(6, 4), CentreBatch(), nn.Linear(4, 3), nn.ReLU()))
    assert [f.layer for f in findings if "mixes" in f.reason] == ["1"]


@pytest.mark.parametrize(("model", "name"), [(CentresBetween(), ""), (DoublesBetween(), "second")])
def test_values_overwritten_between_layers_are_seen_as_they_were(model: nn.Module, name: str) -> None:
    findings = inspect(model, torch.randn(3, 6))
    assert [f.layer for f in findings if "mixes" in f.reason] == [name]


def test_an_encoder_in_inference_mode_is_no_finding() -> None:
    assert inspect(FrozenEncoder(), torch.randn(3, 6)) == []


def test_a_normalisation_of_something_else_than_samples_erases_nothing() -> None:
    assert inspect(after_linear(NormalisesParameter())) == []


def test_what_a_device_leaves_undetermined_is_no_mixing() -> None:
    assert inspect(after_linear(Flickers())) == []


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm1d(),
        nn.BatchNorm1d(4, track_running_stats=False),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_batch_norm_must_change(layer: nn.Module) -> None:
    (finding,) = inspect(after_linear(layer))
    assert (finding.layer, finding.severity) == ("2", Severity.MUST)
    assert "repair" in finding.remedy


def test_a_mixing_layer_behind_a_batch_norm_is_found_in_the_same_inspection() -> None:
    findings = inspect(nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), CentreBatch()))
    assert [f.layer for f in findings] == ["1", "2"]


def test_running_statistics_of_instance_norm_must_change() -> None:
    (finding,) = inspect(nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)))
    assert (finding.layer, finding.severity) == ("1", Severity.MUST)


def test_in_place_and_frozen_layers_should_change() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    model[1].eval()
    findings = inspect(model)
    assert [(f.layer, f.severity) for f in findings] == [("1", Severity.SHOULD), ("2", Severity.SHOULD)]
    model.eval()
    assert inspect(model)[0].severity is Severity.MUST, (
        "a model in evaluation mode as a whole is about to be trained"
    )


def test_a_model_that_overwrites_its_batch_should_change() -> None:
    findings = inspect(nn.Sequential(Overwrites(), nn.Linear(6, 2)))
    assert [(f.layer, f.severity) for f in findings] == [("", Severity.SHOULD)]


def test_nothing_trainable_must_change() -> None:
    (finding,) = inspect(nn.Linear(3, 2).requires_grad_(False))
    assert finding.severity is Severity.MUST


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 48, 3), nn.GroupNorm(24, 48), nn.Dropout2d(0.5), nn.ReLU()),
        nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4)),
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(1), nn.LazyLinear(2)),
        nn.Sequential(nn.Embedding(20, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), SequenceFirst()),
        nn.LSTM(5, 7, batch_first=True),
    ],
    ids=["group norm", "instance norm", "lazy linear", "transformer", "windows", "lstm"],
)
def test_fine_models_give_no_finding_and_were_run(model: nn.Module) -> None:
    found = examine(model)
    assert found.findings == ()
    assert found.input_shape is not None


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), KeepsBuffer(), nn.Dropout())
    model.eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    inspect(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, image: Tensor, age: Tensor) -> dict[str, Tensor]:
        return {"scores": self.layer(image) - age.mean()}


def test_examples_may_be_tuples_or_mappings() -> None:
    image, age = torch.randn(2, 3), torch.randn(2, 1)
    for example in ((image, age), {"image": image, "age": age}):
        (finding,) = inspect(TwoInputs(), example)
        assert "mixes" in finding.reason
    # A training batch (images, targets): the model takes the images alone.
    assert inspect(nn.Linear(3, 2), (image, torch.tensor([0, 1]))) == []


def test_examples_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="does not accept"):
        inspect(nn.Linear(3, 2), torch.randn(2, 5))
    with pytest.raises(InputError, match="no batch"):
        inspect(nn.Linear(3, 2), torch.zeros(0, 3))
    with pytest.raises(ModelError, match="str"):
        inspect("resnet9")  # pyright: ignore[reportArgumentType]


def test_types_alone_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    model = TwoInputs()
    with caplog.at_level(logging.WARNING):
        assert inspect(model) == []
    assert "example" in caplog.text
    assert examine(model).input_shape is None
