# SPDX-License-Identifier: Apache-2.0
"""What goes into a checkpoint comes out of it, and nothing secret is in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from torch import nn

from confide.errors import CheckpointError
from confide.experiments import snapshot
from confide.experiments.config import Experiment
from confide.experiments.run import fit
from confide.experiments.snapshot import Progress
from confide.training.average import WeightAverage
from confide.training.trainer import Schedule, Trainer


def trainer() -> Trainer:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = torch.optim.NAdam(model.parameters(), 1e-2)
    return Trainer(
        model, optimizer, Schedule(optimizer, lambda step: 1 / (1 + step)), WeightAverage(model, 0.9)
    )


def advance(it: Trainer) -> None:
    it.model(torch.ones(5, 3)).square().sum().backward()
    it.optimizer.step()
    it.optimizer.zero_grad()
    assert it.average is not None
    it.average.update(it.model)


def test_a_restored_trainer_goes_on_as_the_saved_one(tmp_path: Path) -> None:
    saved, other = trainer(), trainer()
    for _ in range(3):
        advance(saved)
    progress = Progress(3, datetime(2026, 1, 2, tzinfo=UTC), 1.5, 0.25, {"seq": 4}, ["something"])
    snapshot.save(tmp_path, saved, progress)
    assert snapshot.restore(tmp_path, other) == progress
    for it in (saved, other):
        advance(it)
    for mine, theirs in zip(saved.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert saved.average is not None and other.average is not None
    assert saved.average.steps == other.average.steps == 4
    for name, weight in saved.average.weights.items():
        assert torch.equal(weight, other.average.weights[name])


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert snapshot.restore(tmp_path, trainer()) is None


def test_an_altered_checkpoint_is_refused(make: Callable[..., Experiment]) -> None:
    from tests.experiments.test_session import At, ctrl_c

    experiment = make()
    fit(experiment, listener=At(3, ctrl_c))
    [state] = (experiment.folder / snapshot.FOLDER).glob("state-*.json")
    state.write_text(state.read_text().replace('"step": 3', '"step": 2'))
    with pytest.raises(CheckpointError, match="refused"):
        fit(experiment)


def test_no_key_and_no_seed_of_the_noise_is_written(
    make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    from confide.mechanisms.keys import RunKey

    secret = bytes(range(100, 132))
    keys: list[RunKey] = []

    def known(cls: type[RunKey]) -> RunKey:
        keys.append(cls.from_bytes(secret))
        return keys[-1]

    monkeypatch.setattr(RunKey, "from_os", classmethod(known))
    experiment = make()
    fit(experiment)
    assert len(keys) == 1  # the run's own
    forms = (secret, secret.hex().encode(), str(list(secret)).encode(), str(int.from_bytes(secret)).encode())
    written = [path for path in experiment.folder.rglob("*") if path.is_file()]
    assert len(written) >= 7
    for path in written:
        content = path.read_bytes()
        assert not any(form in content for form in forms), path.name
