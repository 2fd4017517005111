# SPDX-License-Identifier: Apache-2.0
"""Networks that radiologists use: repaired, inspected, their clipped sums held to the one-by-one oracle."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from confide.gradients.engine import clipped_gradient
from confide.surgery.inspect import examine
from confide.surgery.repair import repair


def _zoo() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "zoo.py"
    spec = spec_from_file_location("confide_zoo", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


ZOO = _zoo()


# MONAI 1.6 itself calls what torch deprecates.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "network",
    [pytest.param(n, id=n.name, marks=() if n.fast else pytest.mark.slow) for n in ZOO.NETWORKS],
)
def test_repaired_networks_have_exact_clipped_sums(network) -> None:
    torch.manual_seed(0)  # initial weights only
    model = repair(ZOO.without_randomness(network.build()), example=ZOO.batch(network, 2)[0]).double()
    rows = ZOO.batch(network, 3, torch.float64)
    found = examine(model, rows[0])
    assert found.findings == ()
    assert found.input_shape == rows[0].shape
    sums, norms, bound = ZOO.one_by_one(model, rows)
    got = clipped_gradient(model, ZOO.loss, rows, clip_norm=bound)
    assert torch.allclose(got.norms, norms, rtol=1e-9)
    assert ZOO.deviation(got.sums, sums) < 1e-9


def test_the_comparison_sees_one_wrong_value() -> None:
    expected = {"a": torch.ones(3), "b": torch.zeros(2)}
    assert ZOO.deviation(expected, expected) == 0
    assert ZOO.deviation({"a": torch.ones(3), "b": torch.tensor([0.0, 1e-6])}, expected) > 1e-9
