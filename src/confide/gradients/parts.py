# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""A batch in parts: fewer rows in memory, and on a CPU often less time, since more stays in the cache.

Parts are cut between units, so the sums are the same up to rounding.
"""

from __future__ import annotations

import hashlib
import math
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from confide.gradients.choices import recalled, relative_times, remembered
from confide.gradients.fallback import Part
from confide.gradients.reference import Loss, pick, stand_in
from confide.gradients.tuning import kernel_mode
from confide.gradients.units import Clip, Units, add_into

Run = Callable[[nn.Module, Loss, Any, Units, Clip], tuple[Part, tuple[str, ...]]]
_WORTH = 0.1  # seconds that a batch takes at least before parts of it are tried
_PATIENCE = 30  # seconds that timing may take, besides a first turn and one more
_SPARED = 1.03  # fewer rows in memory may cost three per cent of time
_Key = tuple[Any, ...]
_known: weakref.WeakKeyDictionary[nn.Module, dict[_Key, int | None]] = weakref.WeakKeyDictionary()


def in_parts(
    run: Run, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, most: int
) -> tuple[Part, tuple[str, ...]]:
    """What `run` gives for a batch, at most `most` rows at a time, and why it was not faster.

    Norms and factors come in the order of units, losses in that of rows.
    """
    rows = len(units.index)
    # A method may rely on the rows of a unit standing together.
    together = units.distinct or bool((units.index[1:] >= units.index[:-1]).all())
    if most >= rows and together:
        return run(model, loss, batch, units, clip)
    even = math.ceil(rows / math.ceil(rows / most))
    chunks = units.chunks(even)
    parts: list[Part] = []
    reasons: dict[str, None] = {}
    begin = 0
    for chunk in chunks:
        end = begin + len(chunk)
        few = pick(batch, slice(begin, end) if together else chunk)
        own = None if units.distinct else units.index[chunk]
        part, why = run(model, loss, few, Units.of(own, len(chunk), chunk.device), clip)
        begin = end
        reasons |= dict.fromkeys(why)
        if parts:
            add_into(parts[0].sums.values(), part.sums.values())
        parts.append(Part(parts[0].sums if parts else part.sums, part.norms, part.factors, part.losses))
    losses = torch.cat([part.losses for part in parts])
    whole = Part(
        parts[0].sums,
        torch.cat([part.norms for part in parts]),
        torch.cat([part.factors for part in parts]),
        torch.empty_like(losses).index_copy_(0, torch.cat(chunks), losses),
    )
    return whole, tuple(reasons)


def fastest_rows(
    run: Run, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, most: int
) -> int:
    """How many rows at a time take the least time, or hardly more: `most`, or a half or a quarter of it.

    As with kernels, the choice is timed on random numbers in place of the rows, once for each shape and
    machine, and depends on nothing else. A model's first batch is computed whole where nothing is known yet.
    """
    each = units.rows_each
    if units.index.device.type != "cpu" or kernel_mode() != "tune" or each == 0 or most < 4 * each:
        return most
    bucket = 1 << (most.bit_length() - 1)  # as for kernels
    key = (bucket, each, torch.get_num_threads(), *_shapes(batch))
    known = _known.setdefault(model, {})
    if known.get(key) is None:
        # Two units at least: only a part with two can be held to the oracle.
        sizes = {size for size in (bucket, bucket // 2, bucket // 4) if size >= 2 * each}
        parameters = [(tuple(p.shape), p.requires_grad) for p in model.parameters()]
        name = repr((hashlib.blake2b(repr(parameters).encode(), digest_size=8).hexdigest(), *key))
        names = {str(size) for size in sizes}
        choice = recalled(name, names)
        if choice is None and key in known:
            few = units.chunks(bucket)[0]
            owners = Units.of(None if units.distinct else units.index[few], len(few), few.device)
            choose = partial(_choose, run, model, loss, pick(batch, few), owners, clip, sizes)
            choice = remembered(name, names, choose)
        known[key] = None if choice is None else int(choice)
    found = known[key]
    return most if found in (bucket, None) else found


def _shapes(batch: Any) -> list[Any]:
    tensors = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    return [(tuple(t.shape[1:]), str(t.dtype)) for t in tensors]


def _choose(
    run: Run, model: nn.Module, loss: Loss, batch: Any, units: Units, clip: Clip, sizes: set[int]
) -> str:
    whole = str(max(sizes))
    with torch.random.fork_rng():
        numbers = stand_in(batch)
        works = {
            str(size): partial(in_parts, run, model, loss, numbers, units, clip, size)
            for size in sorted(sizes, reverse=True)
        }
        try:
            began = time.perf_counter()
            works[whole]()
            taken = time.perf_counter() - began
            if taken < _WORTH:
                return whole
            turns = min(5, max(1, int(_PATIENCE / taken / len(works))))
            times = relative_times(works, units.index.device, turns)
            least = min(times.values())
            return min((size for size in times if times[size] <= _SPARED * least), key=int)
        except Exception:  # a loss may refuse such numbers; the real batch will show what is wrong
            return whole
