# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/gradients.md run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from confide.gradients.rules import LAYERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gradients.md"


def test_examples_run() -> None:
    known = dict(LAYERS)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    try:
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    finally:
        LAYERS.clear()
        LAYERS.update(known)
    assert len(blocks) == 4
    assert names["out"].fallbacks == ()
