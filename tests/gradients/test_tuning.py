# SPDX-License-Identifier: Apache-2.0
"""The choice of kernels: every candidate is timed, choices are kept, a damaged cache is no choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from confide.gradients import choices, tuning
from confide.gradients.kernels import KERNELS, ConvShape
from confide.gradients.units import squared_norms

SHAPE = ConvShape((1, 1), (1, 1), (1, 1), (0, 0), False, 1)


def arguments(rows: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, ConvShape]:
    return torch.zeros(rows, 3, 9, 9), torch.zeros(rows, 5, 9, 9), torch.zeros(5, 3, 3, 3), SHAPE


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kernels.json"
    monkeypatch.setenv("CONFIDE_KERNELS", "tune")
    monkeypatch.setattr(choices, "_file", lambda: path)
    monkeypatch.setattr(choices, "_chosen", {})
    monkeypatch.setattr(choices, "_loaded", [])
    return path


def test_every_candidate_is_timed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    work = tuning._work
    monkeypatch.setattr(tuning, "_work", lambda name, *rest: (seen.append(name), work(name, *rest)))
    chosen = tuning.choose_kernel(*arguments(), ghost_allowed=True)
    assert set(seen) == set(tuning._candidates(*arguments(), True)) >= set(KERNELS)
    assert chosen in seen
    seen.clear()
    assert tuning.choose_kernel(*arguments(), ghost_allowed=True) == chosen
    assert not seen
    assert list(json.loads(cache.read_text()).values()) == [chosen]


def test_a_wrong_kernel_is_never_chosen(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, *rest: object) -> torch.Tensor:
        return torch.zeros(len(x), *weight.shape)

    for name in set(KERNELS) - {"loop"}:
        monkeypatch.setitem(KERNELS, name, nothing)
    assert tuning.choose_kernel(*arguments(), ghost_allowed=False) == "loop"


def test_sizes_of_poisson_batches_share_a_choice(cache: Path) -> None:
    for rows in (16, 17, 31, 24):
        tuning.choose_kernel(*arguments(rows), ghost_allowed=True)
    assert len(json.loads(cache.read_text())) == 1
    tuning.choose_kernel(*arguments(32), ghost_allowed=True)
    assert len(json.loads(cache.read_text())) == 2


def test_small_work_and_the_model_are_not_timed(cache: Path) -> None:
    tuning.choose_kernel(*arguments(1), ghost_allowed=True)
    with tuning.kernels("model"):
        tuning.choose_kernel(*arguments(), ghost_allowed=True)
    assert not cache.exists()


def test_a_damaged_cache_is_no_choice(cache: Path) -> None:
    for text in ("{", "[1]", '{"x": 3}'):
        cache.write_text(text)
        assert choices._load() == {}


def test_choices_of_another_process_are_kept(cache: Path) -> None:
    tuning.choose_kernel(*arguments(16), ghost_allowed=True)
    theirs = json.loads(cache.read_text()) | {"of another process": "loop"}
    cache.write_text(json.dumps(theirs))
    tuning.choose_kernel(*arguments(32), ghost_allowed=True)
    assert set(theirs) < set(json.loads(cache.read_text()))


def test_the_fastest_of_several_works_is_named() -> None:
    """The works differ by a factor of 1,000, so that no load can turn them round."""
    works = {"slow": lambda: sum(range(1_000_000)), "quick": lambda: sum(range(1_000))}
    assert choices.fastest(works, torch.device("cpu")) == "quick"


def test_an_unknown_name_in_the_cache_is_chosen_anew(cache: Path) -> None:
    chosen = tuning.choose_kernel(*arguments(), ghost_allowed=True)
    cache.write_text(cache.read_text().replace(f'"{chosen}"', '"nonsense"'))
    choices._chosen.clear()
    choices._loaded.clear()
    assert tuning.choose_kernel(*arguments(), ghost_allowed=True) in KERNELS | {"ghost": None}


def test_bfloat16_does_not_make_an_exact_kernel_look_wrong(
    cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, grad, weight, shape = (t.bfloat16() if isinstance(t, torch.Tensor) else t for t in arguments(16))
    assert isinstance(shape, ConvShape)
    for size in (1, 3):
        pad = replace(shape, padding=(size // 2, size // 2))
        tuning.choose_kernel(x, grad, weight[..., :size, :size].contiguous(), pad, ghost_allowed=True)
    grad = torch.zeros(16, 4, 24, 24, dtype=torch.bfloat16)
    one = replace(shape, padding=(0, 0))
    tuning.choose_kernel(
        torch.zeros(16, 3, 24, 24, dtype=torch.bfloat16), grad, grad[:4, :3, :1, :1], one, ghost_allowed=True
    )
    assert caplog.text == ""


def test_timing_leaves_the_random_numbers_alone(cache: Path) -> None:
    state = torch.get_rng_state()
    tuning.choose_kernel(*arguments(), ghost_allowed=True)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", [*KERNELS, "ghost"])
def test_a_named_kernel_is_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_KERNELS", name)
    assert tuning.choose_kernel(*arguments(), ghost_allowed=True) == name
    assert tuning.choose_kernel(*arguments(), ghost_allowed=False) == ("loop" if name == "ghost" else name)


def test_a_long_float32_norm_keeps_its_digits() -> None:
    """600,000 equal coordinates: one float32 sum loses 1e-5 here."""
    values = torch.full((1, 600_000), 0.1)
    exact = 600_000 * float(values[0, 0]) ** 2
    assert abs(float(squared_norms(values)) / exact - 1) < 1e-6


def test_the_weight_of_a_work_counts() -> None:
    works = {"light": lambda: sum(range(1000)), "heavy": lambda: None}
    assert choices.fastest(works, torch.device("cpu"), {"light": 0.0}) == "light"


@pytest.mark.parametrize(
    ("limit", "most", "timed"),
    [("_TIMED", 10**12, 16), ("_TIMED", 1, 2), ("_TIMED", 5 * 10935, 5), ("_FORMED", 5 * 540, 5)],
)
def test_large_work_is_timed_on_fewer_rows(
    limit: str, most: int, timed: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A row takes 9·9 positions times 5·3·9 weights: 10,935 multiply-adds; its gradient 540 bytes.
    seen: set[int] = set()
    work = tuning._work
    monkeypatch.setattr(tuning, limit, most)
    monkeypatch.setattr(tuning, "_work", lambda name, x, *rest: (seen.add(len(x)), work(name, x, *rest)))
    tuning.choose_kernel(*arguments(), ghost_allowed=True)
    assert seen == {timed}


def test_patches_that_fill_the_memory_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    # 9·9 positions times 3·9 numbers of 4 bytes: 8,748 bytes a row.
    assert "unfold" in tuning._candidates(*arguments(), True)
    monkeypatch.setattr(tuning, "_PATCHES", 8747)
    assert "unfold" not in tuning._candidates(*arguments(), True)


def test_long_works_are_compared_turn_by_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    # A machine that slows down to a fifth, and once spurts while the second work runs, which takes 1.1 times
    # the first. The shortest times would have it take half.
    now = [0.0]
    speeds = iter([*[1.0] * 4, 1.0, 2.2, *[0.2] * 4, *[1.0] * 2])
    monkeypatch.setattr(choices, "_clock", lambda device: lambda: now[0])

    def work(amount: float) -> None:
        now[0] += amount / next(speeds)

    works = {"whole": lambda: work(1.0), "parts": lambda: work(1.1)}
    times = choices.relative_times(works, torch.device("cpu"))
    assert times == {"whole": 1.0, "parts": pytest.approx(1.1)}


def test_processors_that_share_a_folder_keep_their_own_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    own = choices._file()
    assert own == choices._file()
    monkeypatch.setattr(choices, "_processor", lambda: "another")
    assert choices._file() != own
    assert choices._file().parent == own.parent
