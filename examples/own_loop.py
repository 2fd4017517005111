# SPDX-License-Identifier: Apache-2.0
"""A private training loop of one's own, on tensors: plan, model, steps, guarantee."""

from __future__ import annotations

import torch
from torch import nn

import confide as cf


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One value a sample: nobody can average too early."""
    images, labels = batch
    return nn.functional.cross_entropy(model(images), labels, reduction="none")


def main(steps: int = 30) -> None:
    """Tell bright images from dark ones."""
    labels = torch.randint(0, 2, (600,))
    images = torch.rand(600, 1, 12, 12) + labels[:, None, None, None]
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(800, 2))
    for finding in cf.inspect(model):
        print(finding)
    plan = cf.PrivacyPlan.for_budget(epsilon=2.0, delta=1e-4, units=600, batch_size=60, steps=steps)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in cf.private_steps(model, optimizer, (images, labels), plan, loss=loss, clip_norm=1.0):
        if step.number % 10 == 0:
            print(f"step {step.number}: released loss {step.loss:.2f}")
    print(plan.guarantee())


if __name__ == "__main__":
    main()
