# SPDX-License-Identifier: Apache-2.0
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
"""Multi-head attention, taken apart into operations that have rules of their own."""

from __future__ import annotations

import inspect
from typing import Any

import torch.nn.functional as F

from confide.gradients.recorder import Recorder, Unsupported
from confide.gradients.rules import operation


@operation(F.multi_head_attention_forward)
def attention(recorder: Recorder, func: Any, args: Any, kwargs: Any) -> Any:
    """`F.multi_head_attention_forward` for the ordinary case: one packed projection, no extra key and value
    rows.

    Inputs are (T, B, E), as `nn.MultiheadAttention` passes them; the projections run as (B, T, E).
    """
    bound = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    unusual = ("bias_k", "bias_v", "static_k", "static_v", "q_proj_weight", "key_padding_mask")
    if (
        any(given[name] is not None for name in unusual)
        or given["add_zero_attn"]
        or given["query"].dim() != 3
    ):
        raise Unsupported("multi-head attention with separate projections, padding or extra rows")
    query, key, value = (given[name].transpose(0, 1) for name in ("query", "key", "value"))
    if len(query) != recorder.batch:
        raise Unsupported("multi-head attention on a tensor that does not hold the batch second")
    heads, mask = given["num_heads"], given["attn_mask"]
    weight, bias = given["in_proj_weight"], given["in_proj_bias"]
    with recorder:
        weights = weight.chunk(3)
        biases = bias.chunk(3) if bias is not None else (None,) * 3
        for tensor in (query, key, value):
            recorder.mark_rows(tensor)
        parts = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)
        if mask is not None and mask.dim() == 3:
            mask = mask.unflatten(0, (-1, heads))
        drop = given["dropout_p"] if given["training"] else 0.0
        if given["need_weights"]:
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
            if mask is not None:
                scores = (
                    scores + mask if mask.is_floating_point() else scores.masked_fill(mask, float("-inf"))
                )
            shares = F.dropout(scores.softmax(-1), drop)
            mixed = shares @ v
        else:
            shares = None
            keep = ~mask if mask is not None and not mask.is_floating_point() else mask
            mixed = F.scaled_dot_product_attention(q, k, v, keep, drop, given["is_causal"] and mask is None)
        out = F.linear(mixed.transpose(1, 2).flatten(2), given["out_proj_weight"], given["out_proj_bias"])
        if shares is not None and given["average_attn_weights"]:
            shares = shares.mean(1)
        return out.transpose(0, 1), shares
