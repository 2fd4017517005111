# SPDX-License-Identifier: Apache-2.0
"""Architectures by name, for configs and the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from confide.errors import ConfigError
from confide.models.options import nearest
from confide.models.resnet9 import ResNet9
from confide.models.resnet18 import ResNet18
from confide.models.resnet50 import ResNet50
from confide.models.unet import UNet
from confide.models.unet_resnet18 import UNetResNet18
from confide.models.vgg11 import VGG11

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "resnet9": ResNet9,
    "unet": UNet,
    "unet_resnet18": UNetResNet18,
    "vgg11": VGG11,
}


def names() -> tuple[str, ...]:
    """All architectures, in alphabetical order.

    >>> "resnet9" in names()
    True
    """
    return tuple(sorted(_MODELS))


def options(name: str) -> dict[str, Any]:
    """The options of an architecture and their defaults.

    Raises:
        ConfigError: If there is no such architecture.
    """
    parameters = inspect.signature(_find(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in ("in_channels", "classes")}


def build(name: str, *, in_channels: int, classes: int, **options_given: Any) -> nn.Module:
    """A new model with random weights.

    Args:
        name: An architecture of `names()`, in any case.
        in_channels: Channels of its images.
        classes: Number of classes, or of labels of a pixel.
        **options_given: Options of that architecture, checked by name; lists may stand for tuples.

    Raises:
        ConfigError: If the name, an option or its value is wrong; names the nearest valid one.

    >>> build("resnet9", in_channels=1, classes=2, widths=[8, 16, 32]).classifier.out_features
    2
    """
    known = options(name)
    for option in options_given:
        if option not in known:
            raise ConfigError(f"model {name!r} has no option {option!r}", remedy=nearest(option, known))
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in options_given.items()}
    return _find(name)(in_channels=in_channels, classes=classes, **values)


def _find(name: str) -> Callable[..., nn.Module]:
    found = _MODELS.get(name.lower()) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(f"there is no model {name!r}", remedy=nearest(str(name), _MODELS))
    return found
