# SPDX-License-Identifier: Apache-2.0
"""What a perturbed data set promises, in words and in figures that never stand for each other."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from confide.data.releases import Released
from confide.mechanisms.local import LocalEpsilon
from confide.privacy.guarantee import delta_text, rounded_up

_TOO_LARGE = 20


@dataclass(frozen=True)
class LocalGuarantee:
    """What a perturbed set promises for each image in it; figures for different things have different names.

    Attributes:
        label: ε of the label (of segmentation, of the mask); infinite where it is stored as it is.
        most_images: Most images that one unit has.
        private: False when the noise came from a known seed.
        released: All copies made of the same images in this project, where they are counted.
    """

    mechanism: str
    epsilon: LocalEpsilon
    label: float
    unit: str
    most_images: int
    private: bool
    released: Released | None = None

    @property
    def unit_epsilon(self) -> float:
        """ε of all images of a unit without their labels, by composition."""
        return self.most_images * self.epsilon.image

    def lines(self) -> list[str]:
        """One statement a line."""
        e = self.epsilon
        delta = f", δ = {delta_text(e.delta)}" if e.delta else ""
        label = "∞ (stored as it is)" if math.isinf(self.label) else rounded_up(self.label)
        both = "∞" if math.isinf(self.label) else f"{rounded_up(e.image + self.label)}{delta}"
        found = [
            *([] if self.private else ["NOT PRIVATE: the noise came from a known seed"]),
            f"mechanism: {self.mechanism}",
            "local differential privacy; ε is for the replacement of what is named",
            f"one pixel: ε = {rounded_up(e.pixel, 4)}{delta}",
            f"{e.m} pixels: ε = {rounded_up(e.neighbourhood, 4)}{delta}",
            f"the whole image: ε = {rounded_up(e.image)}{delta}",
            f"the label: ε = {label}",
            f"an image with its label: ε = {both}",
        ]
        if self.unit != "image":
            times = f", δ = {delta_text(self.most_images * e.delta)}" if e.delta else ""
            words = f"a {self.unit} with {self.most_images} images, without labels"
            found.append(f"{words}: ε = {rounded_up(self.unit_epsilon)}{times}")
        if self.released is not None and self.released.copies > 1:
            together = f", δ = {delta_text(self.released.delta)}" if self.released.delta else ""
            found.append(
                f"{self.released.copies} copies were made of these images: for whoever has all of them the "
                f"whole image has ε = {rounded_up(self.released.epsilon)}{together}"
            )
        if e.image > _TOO_LARGE:
            found.append("The ε of the whole image is too large to mean that nobody can tell whose it is.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """For JSON, where infinity is null."""
        return {
            "mechanism": self.mechanism,
            "neighbours": "replacement of one pixel, of so many pixels, or of one image",
            "accountant": "closed form of the mechanism",
            "epsilon_pixel": _finite(self.epsilon.pixel),
            "epsilon_neighbourhood": _finite(self.epsilon.neighbourhood),
            "neighbourhood_pixels": self.epsilon.m,
            "epsilon_image": _finite(self.epsilon.image),
            "delta": self.epsilon.delta,
            "epsilon_label": _finite(self.label),
            "labels_in_clear": math.isinf(self.label),
            "unit": self.unit,
            "most_images_of_a_unit": self.most_images,
            "epsilon_unit_without_labels": _finite(self.unit_epsilon),
            "copies": self.released.copies if self.released else 1,
            "epsilon_image_over_copies": _finite(
                self.released.epsilon if self.released else self.epsilon.image
            ),
            "declared_public": ["the number of images", "which images belong together", "the splits"],
            "private": self.private,
            "text": self.lines(),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
