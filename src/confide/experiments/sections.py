# SPDX-License-Identifier: Apache-2.0
"""The sections of an experiment: each key, its type, its default and its meaning."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from confide.privacy.units import PrivacyUnit

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _number(value: object) -> object:
    """YAML 1.1 reads `1e-5` as a string, because it wants a dot; people do not."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


Real = Annotated[Positive, BeforeValidator(_number)]


class Section(BaseModel):
    """One section of an experiment: frozen, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Which data, and who is one privacy unit in it."""

    name: str = Field(description="A catalogue name (`confide data list`) or a path.")
    unit: PrivacyUnit | None = Field(
        default=None, description="image, patient, lesion or tile; default: what the data set supports."
    )
    size: int | None = Field(
        default=None, ge=8, description="Side in pixels to resize to, for sets that are not square already."
    )
    channels: Literal[1, 3] | None = Field(
        default=None, description="Of a folder: 1 (grey) or 3 (RGB); default: as published, else 3."
    )
    window: str | None = Field(
        default=None,
        description="Of DICOM files and volumes: lung, abdomen, ..., LOW:HIGH, or volume.",
    )
    patients: str | None = Field(
        default=None, description="Of a folder: regular expression, its group finds the patient in a name."
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="Of a folder: class names in order; of masks, of the values 0..K-1."
    )
    skip_bad: bool = Field(default=False, description="Leave out files that cannot be used, and count them.")
    split_seed: int | None = Field(
        default=None, ge=0, description="Of the split, where nobody has divided the data; public."
    )
    max_rows_per_unit: int | None = Field(
        default=None, ge=1, description="Rows a unit contributes to a step at most."
    )

    def reading(self) -> dict[str, Any]:
        """The arguments of `confide.data.catalog.load` beside the name, as far as they are given."""
        given = self.model_dump(exclude={"name", "max_rows_per_unit", "split_seed"}, exclude_none=True)
        return given if self.split_seed is None else given | {"seed": self.split_seed}


class ModelConfig(BaseModel):
    """A registered architecture and its options, for example `widths: [8, 16, 32]`."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = Field(description="A registered architecture; its options stand beside the name.")

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name; the registry checks it."""
        return dict(self.__pydantic_extra__ or {})


class ClippingConfig(Section):
    """How one unit's gradient is bounded."""

    kind: Literal["flat", "per-layer", "automatic", "adaptive"] = Field(
        default="flat", description="All parameters together, each layer, normalised, or a moving bound."
    )
    bound: Real = Field(default=1.0, description="Clip norm C.")
    quantile: float = Field(
        default=0.5, gt=0, lt=1, description="adaptive: the share of units left unclipped."
    )


class PrivacyConfig(Section):
    """The privacy parameters.

    Give `epsilon` (the noise is found), `noise_multiplier`, or both (ε is then a limit).
    """

    epsilon: Real | None = Field(default=None, description="Upper bound of ε(δ); never exceeded.")
    noise_multiplier: Real | None = Field(default=None, description="σ: noise in units of the clip norm.")
    delta: Real = Field(description="δ, below 1/n; better below 1/(10 n).")
    clipping: ClippingConfig = ClippingConfig()
    sampling: Literal["poisson", "fixed-size", "full-batch", "balls-in-bins"] = Field(
        default="poisson",
        description="How units enter a batch; balls-in-bins is refused: no accountant gives it a bound.",
    )
    units: int | None = Field(
        default=None, ge=1, description="n, declared public; default: the data set's published size."
    )
    release_loss: bool = Field(
        default=True, description="Release the training loss of every step, with its own accounted noise."
    )
    hardened: bool = Field(
        default=False, description="Integer gradients and discrete Gaussian noise instead of floats."
    )
    ledger: bool = Field(default=True, description="Charge the ledger before every step.")

    @model_validator(mode="after")
    def _one_given(self) -> Self:
        if self.epsilon is None and self.noise_multiplier is None:
            raise ValueError("give epsilon, noise_multiplier, or both")
        return self


class OptimizerConfig(Section):
    """The optimizer; it sees privatised gradients only."""

    name: Literal["sgd", "adam", "nadam", "adamw"] = Field(default="adam", description="The update rule.")
    lr: Real = Field(default=1e-3, description="Learning rate.")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="sgd only.")
    weight_decay: float = Field(default=0.0, ge=0, description="Of the weights; needs no data.")


class AugmentationConfig(Section):
    """Random views of an image, and how many of them one step averages."""

    views: int = Field(
        default=1, ge=1, description="Augmentation multiplicity K: views a unit's gradient is averaged over."
    )
    operations: tuple[str, ...] = Field(
        default=(), description="For example [flip, shift]; see confide.data.augment."
    )


class StageConfig(Section):
    """From an epoch on, which parameters are trained."""

    epoch: float = Field(ge=0, description="Passes over the data before this stage; 0: from the start.")
    train: tuple[str, ...] = Field(
        min_length=1, description="Prefixes of parameter names, for example [classifier]; [*] is all."
    )


class TrainingConfig(Section):
    """The schedule. Give `epochs` or `steps`."""

    batch_size: int = Field(ge=1, description="Expected number of units in a step: q·n.")
    epochs: Real | None = Field(default=None, description="Passes over the data: T = ⌈epochs·n/B⌉.")
    steps: int | None = Field(default=None, ge=1, description="T, updates.")
    physical_batch_size: int = Field(
        default=256, ge=1, description="Rows in memory at once; changes memory, not the result."
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Of the learning rate, as a function of the step alone."
    )
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the steps over which the rate rises to its value."
    )
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="Decay of the averaged weights that are evaluated; 0: none."
    )
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: Literal["cross-entropy", "dice"] | None = Field(default=None, description="Default: by the task.")
    initial_weights: str | None = Field(
        default=None, description="A safetensors file of public weights to start from."
    )
    class_weights: tuple[Positive, ...] | None = Field(
        default=None, description="Public weights of the classes in the loss; never computed from the data."
    )
    stages: tuple[StageConfig, ...] = Field(
        default=(), description="Staged unfreezing, by epoch; default: everything is trained throughout."
    )
    method: Literal["auto", "book-keeping", "layer-vmap", "vmap", "loop"] = Field(
        default="auto", description="How clipped sums are computed; changes time and memory, not the result."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Of the model's products in training; norms, sums and noise are float32 always. "
        "`bfloat16` takes less time where the processor has it.",
    )

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give one of epochs and steps")
        begins = [stage.epoch for stage in self.stages]
        if begins and (begins[0] != 0 or begins != sorted(set(begins))):
            raise ValueError("stages begin at epoch 0 and follow each other")
        return self


class EvaluationConfig(Section):
    """When the model is scored. Scores on validation and test images are declared public."""

    every_epochs: Real = Field(default=1.0, description="Epochs between two points of the curves.")
    batch_size: int = Field(default=512, ge=1, description="Images at once.")
    bootstrap: int = Field(default=1000, ge=0, description="Resamples for confidence intervals; 0: none.")
    test: Literal["at-end", "each-evaluation", "never"] = Field(
        default="at-end",
        description="When the test images are scored. `each-evaluation` repeats published protocols that "
        "look at them all the time; choosing anything by such a curve spoils the test set.",
    )
    samples: int | None = Field(
        default=None,
        ge=0,
        le=24,
        description="Test images kept in the run folder for its report; default: 24 of a published data set, "
        "none of one's own.",
    )


class DiagnosticsConfig(Section):
    """Gradient sparsity, norms and clip fraction at each evaluation. They are not noised."""

    of: Literal["none", "validation", "train"] = Field(
        default="none",
        description="Whose gradients: none; validation images, which is declared public; or training images, "
        "which puts these figures outside every guarantee, and the record says so.",
    )
    rows: int = Field(default=64, ge=1, description="Images looked at: the first ones of the split.")
