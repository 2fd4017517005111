# SPDX-License-Identifier: Apache-2.0
"""Run folders made by code: small, realistic, and no training."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file

from confide.evaluation.bootstrap import Bootstrap
from confide.evaluation.metrics import classification_metrics
from confide.experiments import history
from confide.experiments.history import EvaluationLine, StepLine
from confide.experiments.predictions import Predictions
from confide.experiments.record import (
    Baseline,
    Cost,
    DataRecord,
    Measured,
    ModelRecord,
    RunRecord,
    Spent,
)
from confide.privacy.plan import PrivacyPlan
from confide.privacy.units import PrivacyUnit

CLASSES = ("normal", "pneumonia")
MakeRun = Callable[..., Path]


@cache
def plan_for(epsilon: float, unit: PrivacyUnit = PrivacyUnit.IMAGE) -> PrivacyPlan:
    return PrivacyPlan.for_budget(
        epsilon=epsilon, delta=1e-5, units=4708, batch_size=512, epochs=12, unit=unit
    )


def predict(
    rows: int, skill: float, classes: int, seed: int, noise_seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Labels from `seed`; probabilities of a classifier that is over-confident and better on common
    classes."""
    generator = np.random.default_rng(seed)
    share = np.linspace(1.0, 1.6, classes)
    labels = generator.choice(classes, rows, p=share / share.sum())
    noise = np.random.default_rng(seed if noise_seed is None else noise_seed)
    logits = noise.normal(size=(rows, classes)) * 1.6 + skill * np.eye(classes)[labels] * share
    odds = np.exp(1.3 * logits)
    return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32), labels.astype(np.int64)


def pictures(count: int, labels: np.ndarray) -> np.ndarray:
    """Grey blobs: brighter lower half for the second class."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[-1:1:28j, -1:1:28j]
    body = np.exp(-2 * (x**2 + y**2))
    lung = np.exp(-12 * ((np.abs(x) - 0.4) ** 2 + 0.5 * y**2))
    found = []
    for i in range(count):
        shade = (
            0.55 * body
            + 0.25 * (1 - lung)
            + 0.25 * labels[i] * lung * (y > 0)
            + generator.normal(0, 0.03, y.shape)
        )
        found.append(np.clip(255 * shade, 0, 255).astype(np.uint8)[..., None])
    return np.stack(found)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make run folders in this test's folder."""
    return run_maker(tmp_path)


@pytest.fixture(scope="session")
def make_shared_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Make run folders that several tests read."""
    return run_maker(tmp_path_factory.mktemp("runs"))


def run_maker(place: Path) -> MakeRun:
    """A function that makes run folders in a place."""

    def make(
        name: str = "demo",
        *,
        epsilon: float | None = 3.0,
        skill: float = 1.9,
        classes: tuple[str, ...] = CLASSES,
        status: str = "finished",
        seeded: bool = False,
        unit: PrivacyUnit = PrivacyUnit.IMAGE,
        model: bool = False,
        noise_seed: int | None = None,
        rows: int = 624,
        subgroups: bool = True,
        predictions: bool = True,
        **changes: Any,
    ) -> Path:
        folder = place / name
        folder.mkdir()
        plan = plan_for(epsilon, unit) if epsilon is not None else None
        write_history(folder, plan, skill)
        scores, labels = predict(rows, skill, len(classes), 11, noise_seed)
        units = np.arange(rows) // 2
        if predictions:
            generator = np.random.default_rng(5)
            Predictions(
                scores,
                labels,
                units if unit is PrivacyUnit.PATIENT else None,
                subgroups={
                    "sex": generator.choice(["female", "male"], rows, p=[0.4, 0.6]),
                    "age": generator.choice(
                        ["1 year", "2 years", "3 years and older", "unknown"], rows, p=[0.4, 0.35, 0.24, 0.01]
                    ),
                }
                if subgroups
                else {},
                samples=pictures(24, labels),
                sample_rows=np.arange(24),
            ).save(folder)
        found = classification_metrics(scores, labels, classes, None, Bootstrap(200))
        record = RunRecord(
            name=name,
            status=status,  # type: ignore[arg-type]
            created=datetime(2026, 11, 24, 8, 0, tzinfo=UTC),
            finished=datetime(2026, 11, 24, 8, 4, tzinfo=UTC) if status == "finished" else None,
            command=["confide", "train", f"examples/{name}.yaml", "--set", "training.epochs=12"],
            guarantee=plan.guarantee(private=not seeded).to_dict() if plan is not None else None,
            spent=Spent(epsilon=plan.epsilon(), delta=plan.delta, steps=plan.steps)
            if plan is not None
            else None,
            declared_public=["the number of training images (4,708)", "the class names"],
            metrics={"test": {key: Measured(**m.to_dict()) for key, m in found.items()}}
            if status == "finished"
            else {},
            baseline=Baseline(
                majority_accuracy=float(np.bincount(labels).max() / rows), majority_class=classes[-1]
            ),
            versions={"confide": "0.1.0", "torch": "2.13.0", "python": "3.11.2", "dp-accounting": "0.6.0"},
            data=DataRecord(
                name="pneumoniamnist",
                title="PneumoniaMNIST",
                fingerprint="sha256:0f1e2d3c",
                unit=unit,
                units=4708,
                rows={"train": 4708, "validation": 524, "test": rows},
                classes=list(classes),
                licence="CC BY 4.0",
                citation="Yang et al. (2023), MedMNIST v2",
            ),
            model=ModelRecord(
                name="resnet9",
                options={"widths": [8, 16, 32]},
                parameters=15930,
                in_channels=1,
                size=(28, 28),
                mean=[0.5],
                std=[0.25],
            ),
            seed_policy="seeded: not private" if seeded else "operating system",
            cost=Cost(seconds=171.0, seconds_per_step=1.5, peak_memory_mb=912.0, device="CPU, 2 cores"),
            **changes,
        )
        record.save(folder)
        if model:
            write_model(folder, len(classes))
        return folder

    return make


def write_history(folder: Path, plan: PrivacyPlan | None, skill: float) -> None:
    generator = np.random.default_rng(7)
    steps = plan.steps if plan is not None else 111
    lines: list[history.Line] = []
    spent = plan.epsilon() if plan is not None else 0.0
    for step in range(1, steps + 1):
        epoch = 12 * step / steps
        epsilon = None if plan is None else spent * float(np.sqrt(step / steps))
        loss = 0.25 + 0.45 * np.exp(-step / 30) + generator.normal(0, 0.06 if plan is not None else 0.01)
        lines.append(StepLine(step=step, epoch=epoch, loss=float(loss), epsilon=epsilon))
        if step % 10 == 0 or step == steps:
            accuracy = 0.62 + (0.12 * skill - 0.0) * (1 - np.exp(-step / 25)) + generator.normal(0, 0.006)
            lines.append(
                EvaluationLine(
                    step=step, epoch=epoch, epsilon=epsilon, metrics={"accuracy": float(min(accuracy, 0.99))}
                )
            )
    (folder / history.FILE).write_text("".join(line.model_dump_json() + "\n" for line in lines))


def write_model(folder: Path, classes: int) -> None:
    from confide.models.registry import build

    model = build("resnet9", in_channels=1, classes=classes, widths=[8, 16, 32])
    save_file(model.state_dict(), folder / "model.safetensors")


class Browser:
    """Headless Chromium through chromedriver's own HTTP protocol, on the loopback interface only."""

    flags = (
        "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync --hide-scrollbars "
        "--disable-dev-shm-usage"
    )

    def __init__(self, driver: str, chromium: str, profile: Path) -> None:
        self.process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = next(text for text in self.process.stdout if "started successfully on port" in text)
        port = int(line.split("port ")[1].rstrip(". \n"))
        self.base = f"http://127.0.0.1:{port}"
        options = {"binary": chromium, "args": [*self.flags.split(), f"--user-data-dir={profile}"]}
        always = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": always}})
        self.session = f"/session/{answer['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def command(self, name: str, **parameters: Any) -> Any:
        """A DevTools command."""
        return self._call("POST", f"{self.session}/goog/cdp/execute", {"cmd": name, "params": parameters})

    def open(self, page: Path, *, width: int = 1280, dark: bool = False, media: str = "screen") -> None:
        """Open a file at a width, in light or dark."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.logs("performance")
        self._call("POST", f"{self.session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """Run JavaScript; its `return` value comes back."""
        return self._call("POST", f"{self.session}/execute/sync", {"script": script, "args": []})

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """Log entries since the last call."""
        return self._call("POST", f"{self.session}/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Every address asked for since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def screenshot(self, path: Path) -> Path:
        """The whole page as a PNG."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def close(self) -> None:
        """End the browser and its driver."""
        try:
            self._call("DELETE", self.session)
        finally:
            self.process.terminate()
            self.process.communicate(timeout=10)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Headless Chromium, or a skip that says what is missing."""
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if driver is None or chromium is None:
        pytest.skip(
            "no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)"
        )
    found = Browser(driver, chromium, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
