# SPDX-License-Identifier: Apache-2.0
"""What is asked of a model before its sums are believed: with every loss, without its randomness, of rows
that differ, of what it remembers, and of tensors that are not its own."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from confide.errors import ModelError, UnsupportedLayerError
from confide.gradients.engine import clipped_gradient


def squares(model: nn.Module, batch: Any) -> Tensor:
    return model(batch).flatten(1).square().sum(1)


def mixing(model: nn.Module, batch: Any, by: float = 1.0) -> Tensor:
    return (model(batch) - by * model(batch).mean(0)).square().sum(1)


def closing_over(inner: Any) -> Any:
    return lambda model, batch: inner(model, batch)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (squares, mixing),
        (closing_over(squares), closing_over(mixing)),
        (partial(mixing, by=0), partial(mixing, by=1)),
    ],
)
def test_a_loss_that_comes_later_is_judged(first: Any, later: Any) -> None:
    model, batch = nn.Linear(4, 3), torch.randn(5, 4)
    clipped_gradient(model, first, batch, clip_norm=1.0)
    with pytest.raises(UnsupportedLayerError, match="other samples"):
        clipped_gradient(model, later, batch, clip_norm=1.0)


def test_a_loss_made_anew_for_every_step_is_judged_once() -> None:
    calls: list[int] = []

    class Counted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            calls.append(len(input))
            return super().forward(input)

    model = Counted(4, 3)
    for step in range(4):
        clipped_gradient(model, closing_over(squares), torch.randn(5, 4), clip_norm=1.0)
        assert step == 0 or calls == [5]
        calls.clear()


class Noisy(nn.Module):
    """Random, and it mixes or not."""

    def __init__(self, how: str, share: float) -> None:
        super().__init__()
        self.how, self.share = how, share
        self.inner = nn.Linear(4, 4)
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        self.recurrent = nn.GRU(4, 4, 2, batch_first=True, dropout=0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        match self.how:
            case "functional":
                h = F.dropout(h, 0.3, self.training)
            case "attention":
                h = self.attention(h)
            case "recurrent":
                h = self.recurrent(h)[0]
            case "paths":
                h = h + h.new_empty(len(h), 1, 1).bernoulli_(0.9) * torch.tanh(h) / 0.9
                h = h + torch.bernoulli(torch.full((len(h), 1, 1), 0.9)) * torch.tanh(h) / 0.9
                h = h + (torch.rand(len(h), 1, 1) < 0.9) * torch.tanh(h)
            case _:
                h = h + 0.1 * torch.randn_like(h) + h[torch.randperm(len(h))] * (self.share > 0)
        return h if self.how == "mixup" else h + self.share * h.mean(0)


HOWS = ["functional", "attention", "recurrent", "paths", "mixup"]


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.parametrize("how", HOWS)
def test_randomness_hides_no_mixing(how: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=r"other samples|cannot take this model"):
        clipped_gradient(Noisy(how, 0.5), squares, torch.randn(6, 3, 4), clip_norm=1.0, method="book-keeping")


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.parametrize("how", HOWS[:4])
def test_randomness_is_not_taken_for_mixing(how: str) -> None:
    for _ in range(10):
        model = Noisy(how, 0.0)
        out = clipped_gradient(model, squares, torch.randn(6, 3, 4), clip_norm=1.0)
        assert how == "recurrent" or not any("oracle" in reason for reason in out.fallbacks)
        assert model.attention.self_attn.dropout == model.recurrent.dropout == 0.3


class OwnDice(nn.Module):
    """Drawn in a way that no check knows; both draws are equal with probability 0.7."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.multinomial(torch.tensor([0.85, 0.15]), len(x), replacement=True)
        return self.inner(x) * (1.0 + chosen[:, None])


def test_few_states_of_chance_are_not_taken_for_mixing() -> None:
    """Refused if the two rows of the method's pass differ from 31 equal passes of two rows: below 1e-4."""
    for _ in range(20):
        clipped_gradient(OwnDice(), squares, torch.randn(6, 4), clip_norm=1.0)


class Cut(nn.Module):
    """Cuts tokens at the batch's longest, and averages over what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        tokens, lengths = batch
        return self.table(tokens[:, : int(lengths.max())]).mean(1)


def test_rows_that_look_alike_hide_no_mixing() -> None:
    batch = torch.randint(9, (5, 8)), torch.tensor([3, 3, 7, 2, 5])
    with pytest.raises(UnsupportedLayerError, match="other samples"):
        clipped_gradient(Cut(), squares, batch, clip_norm=1.0)


@pytest.mark.parametrize(
    "loss",
    [
        mixing,
        lambda m, b: m(b.flip(0)).flip(0).square().sum(1),
    ],
)
def test_book_keeping_that_a_user_insists_on_is_checked(loss: Any) -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedLayerError):
            clipped_gradient(nn.Linear(4, 3), loss, torch.randn(5, 4), clip_norm=1.0, method="book-keeping")


def test_complex_parameters_keep_both_parts() -> None:
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, dtype=torch.complex128))

        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=8)

    model, x = Spectral(), torch.randn(1, 8, dtype=torch.float64)
    out = clipped_gradient(model, squares, x, clip_norm=1e9)
    expected = torch.autograd.grad(squares(model, x).sum(), model.weight)[0]
    torch.testing.assert_close(out.sums["weight"], expected)
    assert float(out.norms) == pytest.approx(float(torch.view_as_real(expected).norm()))
    assert "complex" in out.fallbacks[0]


class Remembers(nn.Module):
    """Keeps an average of what it saw, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inner = nn.Linear(4, 4)
        self.register_buffer("buffer", torch.zeros(4))
        self.frozen = nn.Parameter(torch.zeros(4), requires_grad=False)
        self.attribute = torch.zeros(4)
        self.shown: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        seen = h.detach().mean(0)
        match self.how:
            case "buffer":
                self.buffer.data.mul_(0.9).add_(0.1 * seen)
            case "frozen":
                with torch.no_grad():
                    self.frozen.mul_(0.9).add_(0.1 * seen)
            case "frozen data":
                self.frozen.data.mul_(0.9).add_(0.1 * seen)
            case "attribute":
                self.attribute.mul_(0.9).add_(0.1 * seen)
            case _:
                self.shown = seen
        return h


@pytest.mark.parametrize("method", ["auto", "book-keeping", "loop"])
@pytest.mark.parametrize("how", ["buffer", "frozen", "frozen data", "attribute"])
def test_a_model_that_remembers_is_refused(how: str, method: str) -> None:
    with pytest.raises(UnsupportedLayerError, match=rf"'{how.split()[0]}' changes in a training forward"):
        clipped_gradient(Remembers(how), squares, torch.randn(5, 4), clip_norm=1.0, method=method)


def test_one_that_shows_what_it_last_saw_is_not() -> None:
    clipped_gradient(Remembers("shown"), squares, torch.randn(5, 4), clip_norm=1.0)


@pytest.mark.parametrize("method", ["auto", "book-keeping", "loop"])
def test_a_parameter_that_is_not_the_models_is_refused(method: str) -> None:
    scale = nn.Parameter(torch.ones(()))

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return squares(model, batch) * torch.exp(-scale)

    with pytest.raises(ModelError, match="not the model's"):
        clipped_gradient(nn.Linear(4, 3), loss, torch.randn(5, 4), clip_norm=1.0, method=method)
    assert scale.grad is None
    with pytest.raises(ModelError, match="not the model's"):  # of one row there is no check
        clipped_gradient(nn.Linear(4, 3), loss, torch.randn(1, 4), clip_norm=1.0, method=method)


@pytest.mark.parametrize("method", ["auto", "loop"])
def test_a_teacher_whose_answer_is_detached_is_not(method: str) -> None:
    teacher = nn.Linear(4, 3)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - teacher(batch).detach()).square().sum(1)

    clipped_gradient(nn.Linear(4, 3), loss, torch.randn(5, 4), clip_norm=1.0, method=method)
    assert teacher.weight.grad is None


@pytest.mark.parametrize("method", ["auto", "loop"])
def test_gradients_of_other_leaves_stay_what_they_were(method: str) -> None:
    batch = torch.randn(5, 4, requires_grad=True)
    batch.grad = before = torch.ones(5, 4)
    clipped_gradient(nn.Linear(4, 3), squares, batch, clip_norm=1.0, method=method)
    assert batch.grad is before and bool((before == 1).all())


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # of vmap
@pytest.mark.parametrize("method", ["book-keeping", "vmap", "loop"])
def test_weights_of_eight_bits_do_not_round_the_bound(method: str) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3)).bfloat16()
        one = torch.randn(1, 8, dtype=torch.bfloat16)
        out = clipped_gradient(model, squares, one, clip_norm=0.01, method=method)
        norm = sum(float(total.double().square().sum()) for total in out.sums.values()) ** 0.5
        assert {total.dtype for total in out.sums.values()} == {torch.float32}
        assert norm <= 0.01 * (1 + 1e-6)
