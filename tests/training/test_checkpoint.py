# SPDX-License-Identifier: Apache-2.0
"""Checkpoints come back bit for bit, or not at all."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from confide.errors import CheckpointError
from confide.training import checkpoint
from confide.training.packing import pack, prefixed, under, unpack

KEY = bytes(range(32))


def _save(folder: Path, value: float = 1.0) -> None:
    checkpoint.save(
        folder, {"w": torch.full((5, 3), value), "half": torch.ones(2).bfloat16()}, {"step": value}, KEY
    )


def test_comes_back(tmp_path: Path) -> None:
    _save(tmp_path)
    tensors, state = checkpoint.load(tmp_path, KEY)
    assert state == {"step": 1.0}
    assert torch.equal(tensors["w"], torch.ones(5, 3))
    assert tensors["half"].dtype is torch.bfloat16


def test_tied_and_strided_tensors_come_back(tmp_path: Path) -> None:
    tied = torch.arange(6.0).view(2, 3)
    checkpoint.save(tmp_path, {"a": tied, "b": tied, "c": tied.T}, {}, KEY)
    tensors, _ = checkpoint.load(tmp_path, KEY)
    assert (
        torch.equal(tensors["a"], tied)
        and torch.equal(tensors["b"], tied)
        and torch.equal(tensors["c"], tied.T)
    )


def test_only_the_newest_stays(tmp_path: Path) -> None:
    for value in (1.0, 2.0, 3.0):
        _save(tmp_path, value)
    assert len(list(tmp_path.iterdir())) == 3
    assert checkpoint.load(tmp_path, KEY)[1] == {"step": 3.0}


@pytest.mark.parametrize("kind", ["tensors", "state", "manifest"])
def test_every_byte_counts(tmp_path: Path, kind: str) -> None:
    """Each byte of each file, flipped."""
    _save(tmp_path)
    path = next(tmp_path.glob(f"{kind}*"))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path, KEY)


@pytest.mark.parametrize("kind", ["tensors", "state", "manifest"])
def test_every_length_counts(tmp_path: Path, kind: str) -> None:
    _save(tmp_path)
    path = next(tmp_path.glob(f"{kind}*"))
    whole = path.read_bytes()
    for part in [*(whole[:n] for n in range(len(whole))), whole + b"}", whole + whole]:
        path.write_bytes(part)
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path, KEY)
    path.unlink()
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path, KEY)


def test_another_key_is_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    with pytest.raises(CheckpointError, match="another key"):
        checkpoint.load(tmp_path, bytes(32))


def test_parts_of_two_checkpoints_do_not_mix(tmp_path: Path) -> None:
    _save(tmp_path / "old", 1.0)
    _save(tmp_path / "new", 2.0)
    old, new = (next((tmp_path / name).glob("tensors*")) for name in ("old", "new"))
    new.write_bytes(old.read_bytes())
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "new", KEY)


def test_links_are_not_followed(tmp_path: Path) -> None:
    _save(tmp_path / "run")
    path = next((tmp_path / "run").glob("tensors*"))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "run", KEY)


def test_a_signed_name_outside_the_folder_is_refused(tmp_path: Path) -> None:
    _save(tmp_path)
    path = tmp_path / "manifest.json"
    values = json.loads(path.read_text())
    values["files"]["../../secret"] = {"bytes": 1, "sha256": ""}
    values["hmac"] = checkpoint._tag(values, KEY)
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="another version"):
        checkpoint.load(tmp_path, KEY)


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("kind", ["tensors", "state", "manifest"])
def test_a_pickle_is_never_opened(tmp_path: Path, kind: str) -> None:
    marker = tmp_path / "marker"
    attack = pickle.dumps(_Malicious(marker))
    pickle.loads(attack)
    assert marker.exists(), "the attack itself must work"
    marker.unlink()
    _save(tmp_path / "run")
    next((tmp_path / "run").glob(f"{kind}*")).write_bytes(attack)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path / "run", KEY)
    assert not marker.exists()


def test_the_key_is_made_once_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONFIDE_CHECKPOINT_KEY", str(tmp_path / "keys" / "k"))
    key = checkpoint.checkpoint_key()
    assert key == checkpoint.checkpoint_key() and len(key) == 32
    assert (tmp_path / "keys" / "k").stat().st_mode & 0o777 == 0o600
    checkpoint.save(tmp_path / "run", {"w": torch.ones(1)}, {}, key)
    for path in (tmp_path / "run").iterdir():
        content = path.read_bytes()
        assert key not in content and key.hex().encode() not in content
    (tmp_path / "keys" / "k").chmod(0o644)
    with pytest.raises(CheckpointError, match="by others"):
        checkpoint.checkpoint_key()


@pytest.mark.parametrize("state", [{"x": float("nan")}, {"x": object()}, {"x": b"bytes"}])
def test_what_json_lacks_is_refused(tmp_path: Path, state: dict[str, object]) -> None:
    _save(tmp_path)
    with pytest.raises(CheckpointError):
        checkpoint.save(tmp_path, {}, state, KEY)
    assert checkpoint.load(tmp_path, KEY)[1] == {"step": 1.0}


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from confide.errors import CheckpointError
from confide.training import checkpoint
folder, size = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
try:
    checkpoint.save(folder, {"w": torch.zeros(1000)}, {"step": 2.0}, bytes(range(32)))
except CheckpointError as error:
    sys.exit(7 if "full" in str(error) else 1)
"""


def test_a_full_disk_leaves_the_old_one(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: write() fails half-way."""
    _save(tmp_path)
    names = set(tmp_path.iterdir())
    assert subprocess.run([sys.executable, "-c", FULL, str(tmp_path), "2000"], check=False).returncode == 7
    assert set(tmp_path.iterdir()) == names
    assert checkpoint.load(tmp_path, KEY)[1] == {"step": 1.0}


@pytest.mark.parametrize("fault", range(1, 24))
def test_a_crash_at_any_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    """The process is cut off at its n-th call that touches the disk, by an exception that nothing catches."""

    class Cut(BaseException):
        pass

    _save(tmp_path, 1.0)
    calls = 0

    def counted(name: str, module: object) -> None:
        real = getattr(module, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls == fault:
                raise Cut
            return real(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    with monkeypatch.context():
        counted("open", os)
        counted("fsync", os)
        counted("fdopen", os)
        counted("replace", Path)
        counted("unlink", Path)
        try:
            _save(tmp_path, 2.0)
        except Cut:
            pass
        else:
            assert calls < fault
        calls = -1000
    tensors, state = checkpoint.load(tmp_path, KEY)
    assert state["step"] in (1.0, 2.0)
    assert float(tensors["w"][0, 0]) == state["step"]
    _save(tmp_path, 3.0)
    assert len(list(tmp_path.iterdir())) == 3, "left-overs are swept by the next save"


OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, torch.optim.NAdam, torch.optim.RMSprop, torch.optim.Adagrad]


@pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda k: k.__name__)
def test_an_optimizer_goes_on_as_if_nothing_happened(
    tmp_path: Path, kind: type[torch.optim.Optimizer]
) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def step(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for p in net.parameters():
            p.grad = torch.sin(p.detach()) + 0.1
        optimizer.step()

    first, other = model(), model()
    optimizer = kind(first.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(3):
        step(first, optimizer)
        schedule.step()
    held = prefixed("model", first.state_dict())
    state = {
        "o": pack("optimizer", optimizer.state_dict(), held),
        "s": pack("s", schedule.state_dict(), held),
    }
    checkpoint.save(tmp_path, held, state, KEY)

    tensors, state = checkpoint.load(tmp_path, KEY)
    other.load_state_dict(under("model", tensors))
    resumed = kind(other.parameters(), lr=0.5)
    later = torch.optim.lr_scheduler.CosineAnnealingLR(resumed, 10)
    resumed.load_state_dict(unpack(state["o"], tensors))
    later.load_state_dict(unpack(state["s"], tensors))
    for _ in range(3):
        for net, taker, plan in ((first, optimizer, schedule), (other, resumed, later)):
            step(net, taker)
            plan.step()
    for a, b in zip(first.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_packing_keeps_kinds() -> None:
    tensors: dict[str, torch.Tensor] = {}
    value = {0: (1, 2.5, None), "x": [True, float("inf"), {"$tensor": "evil"}], "t": torch.ones(2)}
    back = unpack(json.loads(json.dumps(pack("v", value, tensors))), tensors)
    assert torch.equal(back.pop("t"), value.pop("t"))
    assert back == value and isinstance(back[0], tuple)
    with pytest.raises(CheckpointError, match="nothing is pickled"):
        pack("v", {"f": print}, {})
    with pytest.raises(CheckpointError):
        unpack({"$tensor": "missing"}, {})
