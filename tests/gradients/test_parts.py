# SPDX-License-Identifier: Apache-2.0
"""A batch in parts gives what the whole gives; how many rows are taken at a time follows from no number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.gradients import choices, parts
from confide.gradients.engine import clipped_gradient
from confide.gradients.reference import per_sample_gradients
from confide.gradients.tuning import kernels

Batch = tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).double()


def rows(count: int) -> Batch:
    return torch.randn(count, 1, 8, 8, dtype=torch.float64), torch.arange(count) % 3


@pytest.mark.parametrize("labels", [None, [0, 0, 1, 1, 2, 2, 3], [3, 1, 3, 2, 1, 0, 2]])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 7, 100])
def test_parts_give_the_sums_of_the_whole(labels: list[int] | None, most: int) -> None:
    model, batch = network(), rows(7)
    units = None if labels is None else torch.tensor(labels)
    each = per_sample_gradients(model, loss, batch)
    owners = torch.arange(7) if units is None else units
    means = {n: torch.stack([g[owners == u].mean(0) for u in owners.unique()]) for n, g in each.items()}
    norms = torch.stack([g.flatten(1).square().sum(1) for g in means.values()]).sum(0).sqrt()
    out = clipped_gradient(model, loss, batch, clip_norm=0.5, units=units, physical_batch_size=most)
    torch.testing.assert_close(out.norms, norms)
    torch.testing.assert_close(out.losses, loss(model, batch).detach())
    factors = (0.5 / norms).clamp_max(1.0)
    for name, mean in means.items():
        torch.testing.assert_close(out.sums[name], torch.tensordot(factors, mean, 1))


def test_the_size_of_parts_is_timed_on_random_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(choices, "_chosen", {})
    monkeypatch.setattr(choices, "_loaded", [])
    monkeypatch.setattr(parts, "_WORTH", 0.0)  # time even this small network
    seen: list[tuple[int, bool]] = []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        seen.append((len(batch[0]), bool((batch[0] == 7.0).any())))
        return loss(model, batch)

    model = network()
    images = torch.full((23, 1, 8, 8), 7.0, dtype=torch.float64)
    batch = images, torch.arange(23) % 3
    with kernels("tune"):
        clipped_gradient(model, watched, batch, clip_norm=1.0)
        first = len(seen)
        assert [count for count, real in seen if real] == [23]  # the first batch is computed whole
        clipped_gradient(model, watched, batch, clip_norm=1.0)
        timed = [count for count, real in seen[first:] if not real]
        assert {16, 8, 4} <= set(timed)
        again = len(seen)
        clipped_gradient(model, watched, batch, clip_norm=1.0)
    sizes = [count for count, _ in seen[again:]]
    assert sum(sizes) == 23
    assert all(real for _, real in seen[again:])
    assert sizes in ([23], [8, 8, 7], [4, 4, 4, 4, 4, 3])


def test_the_cost_model_never_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_WORTH", 0.0)
    seen: list[int] = []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(len(batch[0]))
        return loss(model, batch)

    model, batch = network(), rows(16)
    with kernels("model"):
        clipped_gradient(model, watched, batch, clip_norm=1.0)
        seen.clear()
        for _ in range(3):
            clipped_gradient(model, watched, batch, clip_norm=1.0)
    assert seen == [16, 16, 16]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"16": 1.0, "8": 1.05, "4": 1.1}, [16]),
        ({"16": 1.0, "8": 1.02, "4": 1.05}, [8, 8]),
        ({"16": 1.0, "8": 0.9, "4": 0.94}, [8, 8]),
        ({"16": 1.0, "8": 1.1, "4": 1.02}, [4, 4, 4, 4]),
    ],
)
def test_fewer_rows_may_cost_three_per_cent(
    times: dict[str, float], expected: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(choices, "_file", lambda: tmp_path / "kernels.json")
    monkeypatch.setattr(choices, "_chosen", {})
    monkeypatch.setattr(choices, "_loaded", [])
    monkeypatch.setattr(parts, "_WORTH", 0.0)
    monkeypatch.setattr(parts, "relative_times", lambda works, *rest: times)
    seen: list[int] = []

    def watched(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(len(batch[0]))
        return loss(model, batch)

    model, batch = network(), rows(16)
    with kernels("tune"):
        for _ in range(3):
            seen.clear()
            clipped_gradient(model, watched, batch, clip_norm=1.0)
    assert seen == expected
