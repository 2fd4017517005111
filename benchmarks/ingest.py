# SPDX-License-Identifier: Apache-2.0
"""How long a folder of 5,840 chest X-rays takes to read in, and whether loading limits a training step.

    python -m benchmarks.ingest --data DATA

Two folders: the 224×224 files of `chest-xray-pneumonia-224.zip` as they are, and 5,840 files of the size
of the originals (1,300×1,000), made from them by enlarging 400 and copying those. Each is read into an empty
cache and then again from it.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LARGE = (1300, 1000)
DISTINCT = 400


def unpack(archive: Path, folder: Path) -> Path:
    """The files as a folder."""
    from confide.data.sources import ZipSource

    source = ZipSource(archive)
    for name in source.names():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(source.read(name))
    return folder


def enlarge(small: Path, folder: Path) -> Path:
    """As many files as in `small`, under the same names, of the size of the originals."""
    from PIL import Image

    names = sorted(path.relative_to(small) for path in small.rglob("*.jpeg"))
    made: list[bytes] = []
    for name in names[:: len(names) // DISTINCT][:DISTINCT]:
        file = io.BytesIO()
        Image.open(small / name).convert("L").resize(LARGE, Image.Resampling.BICUBIC).save(
            file, "JPEG", quality=95
        )
        made.append(file.getvalue())
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(made[i % DISTINCT])
    return folder


def read_in(folder: Path, cache: Path) -> dict[str, Any]:
    """Seconds into an empty cache, and from it."""
    from confide.data.entries import ENTRIES
    from confide.data.ingest import Reading, ingest
    from confide.data.layouts import kermany
    from confide.data.pseudonyms import PUBLIC_KEY
    from confide.data.sources import FolderSource
    from confide.privacy.units import PrivacyUnit

    os.environ["CONFIDE_CACHE"] = str(cache)
    shutil.rmtree(cache, ignore_errors=True)
    seconds: list[float] = []
    worked: list[float] = []
    for _ in range(2):
        began, busy = time.perf_counter(), time.process_time()
        source = FolderSource(folder)
        ingest(
            source,
            kermany(source),
            ENTRIES["kermany"],
            Reading(size=224, channels=1),
            unit=PrivacyUnit.PATIENT,
            key=PUBLIC_KEY,
        )
        seconds.append(round(time.perf_counter() - began, 2))
        worked.append(round(time.process_time() - busy, 2))
    files = [path.stat().st_size for path in folder.rglob("*.jpeg")]
    return {
        "images": len(files),
        "megabytes": round(sum(files) / 1e6),
        "first_s": seconds[0],
        "first_cpu_s": worked[0],
        "again_s": seconds[1],
        "again_cpu_s": worked[1],
    }


def loading(folder: Path) -> dict[str, float]:
    """CPU milliseconds an image: to load a random batch from the cache, and to take its clipped gradient."""
    import torch

    from confide.data.entries import ENTRIES
    from confide.data.ingest import Reading, ingest
    from confide.data.layouts import kermany
    from confide.data.pseudonyms import PUBLIC_KEY
    from confide.data.sources import FolderSource
    from confide.gradients.engine import clipped_gradient
    from confide.models.registry import build
    from confide.privacy.units import PrivacyUnit

    source = FolderSource(folder)
    found = ingest(
        source,
        kermany(source),
        ENTRIES["kermany"],
        Reading(size=224, channels=1),
        unit=PrivacyUnit.PATIENT,
        key=PUBLIC_KEY,
    )
    train = found.splits["train"]
    model = build("resnet9", in_channels=1, classes=2)
    generator = np.random.default_rng()
    load, step = [], []
    for _ in range(6):
        rows = np.sort(generator.choice(len(train), 32, replace=False))
        began = time.process_time()
        batch = train.batch(rows)
        middle = time.process_time()

        def loss(network: torch.nn.Module, values: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(network(values[0]), values[1], reduction="none")

        clipped_gradient(model, loss, batch, clip_norm=1.0)
        load.append((middle - began) / 32 * 1e3)
        step.append((time.process_time() - middle) / 32 * 1e3)
    # The first tunes kernels and maps pages.
    return {
        "load_ms_per_image": round(float(np.median(load[1:])), 3),
        "step_ms_per_image": round(float(np.median(step[1:])), 3),
    }


def main() -> None:
    """Measure and write the record."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with chest-xray-pneumonia-224.zip")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/ingest.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        small = unpack(arguments.data / "chest-xray-pneumonia-224.zip", room / "small")
        shared = read_in(small, room / "cache")
        steps = loading(small)
        originals = read_in(enlarge(small, room / "large"), room / "cache")
    record = describe(shared, originals, steps, load)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2, ensure_ascii=False))


def describe(
    shared: dict[str, Any], originals: dict[str, Any], steps: dict[str, float], load: float
) -> dict[str, Any]:
    """The record in the form of `benchmarks.page`."""
    import torch

    share = steps["load_ms_per_image"] / steps["step_ms_per_image"]
    return {
        "title": "Reading 5,840 chest X-rays",
        "command": "python -m benchmarks.ingest --data DATA",
        "setting": {
            "torch": torch.__version__,
            "machine": f"{os.cpu_count()}-core {platform.machine()}, CPU",
            "threads": "a decoder a core; training with 1",
            "load": "others were working" if load > 1 else "idle",
        },
        "columns": ["files", "MB", "first reading (s)", "its CPU (s)", "from the cache (s)", "its CPU (s)"],
        "rows": [
            [name, x["megabytes"], x["first_s"], x["first_cpu_s"], x["again_s"], x["again_cpu_s"]]
            for name, x in (("224×224 JPEG", shared), ("1,300×1,000 JPEG", originals))
        ],
        "bars": [
            *(
                f"5,840 files of {name} read in at 224×224 in under 60 s on 2 cores: "
                f"{'reached' if x['first_s'] < 60 else 'missed'}, {x['first_s']:.1f} s "
                f"({x['first_cpu_s']:.1f} s of CPU time) at a load average of {load:.1f}"
                for name, x in (("224×224", shared), ("1,300×1,000", originals))
            ),
            (
                f"loading never limits a step: {'reached' if share < 0.05 else 'missed'}, a batch costs "
                f"{100 * share:.2f} % of the CPU time of its clipped gradient (ResNet-9, 224×224)"
            ),
        ],
        "remarks": [
            "A second reading hashes every file again, to be sure that it is the one that was decoded.",
            (
                f"CPU time an image: {steps['load_ms_per_image']:.3f} ms to load, "
                f"{steps['step_ms_per_image']:.1f} ms for its clipped gradient; medians of 5."
            ),
            "Wall times of a loaded machine are upper bounds: two cores were shared with whatever else ran.",
        ],
    }


if __name__ == "__main__":
    main()
