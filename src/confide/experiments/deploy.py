# SPDX-License-Identifier: Apache-2.0
"""A trained model for use elsewhere: pixels in, probabilities out, its guarantee in the file's metadata."""

from __future__ import annotations

import json
import logging
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from confide.errors import ConfideError, MissingExtraError, RunError
from confide.experiments.record import Run
from confide.experiments.trained import InputForm, input_form, trained_model

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Format(StrEnum):
    """A file format for a trained model."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"
    SAFETENSORS = "safetensors"


SUFFIX = {Format.ONNX: ".onnx", Format.TORCHSCRIPT: ".pt", Format.SAFETENSORS: ".safetensors"}
# Two implementations of the same float32 network differ by rounding only.
TOLERANCE = 1e-4


class Deployed(nn.Module):
    """Normalisation, network, temperature and softmax in one module.

    Args:
        model: The trained network, (B, C, H, W) to scores.
        form: The input it wants.
        temperature: Divides the scores; 1 leaves them as they are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, form: InputForm, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.register_buffer("mean", torch.tensor(form.mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(form.std).reshape(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) float32 pixels in [0, 1] to (B, K) probabilities; (B, K, H, W) for masks."""
        return torch.softmax(self.model((pixels - self.mean) / self.std) / self.temperature, dim=1)


def deployed(run: Run) -> Deployed:
    """The model of a run, ready to classify pixels.

    Raises:
        RunError: If it cannot be built from the run folder.
    """
    temperature = run.record.calibration.temperature if run.record.calibration is not None else 1.0
    return Deployed(trained_model(run), input_form(run), temperature).eval()


def plain(model: nn.Module) -> nn.Module:
    """Steerable layers written out as ordinary convolutions; an ordinary network as it is."""
    from confide.equivariant import export

    return export(model)


def export_run(run: Run, format: Format, path: Path | None = None) -> Path:
    """Write the model of a run and check that the file computes the same.

    Args:
        run: A run with weights.
        format: The file format.
        path: Where to; default: `model.*` in the run folder ("exported.safetensors" for safetensors).

    Returns:
        The file written.

    Raises:
        RunError: If the run has no usable model.
        MissingExtraError: If the format needs a package that is not installed.
        ConfideError: If the file does not compute what the model computes; it is removed then.
    """
    original = deployed(run)
    form = input_form(run)
    model = Deployed(plain(original.model), form, original.temperature).eval()
    name = "exported" if format is Format.SAFETENSORS else "model"
    target = path if path is not None else run.folder / f"{name}{SUFFIX[format]}"
    if target.resolve() == (run.folder / "model.safetensors").resolve():
        raise RunError(
            "is the weights file of the run itself", where=str(target), remedy="Choose another --out."
        )
    example = torch.rand(2, form.channels, *form.size, generator=torch.Generator().manual_seed(0))
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[format](model, example, metadata(run), part)
        _check(original, model, form, format, part)
        part.replace(target)
    except OSError as error:
        raise RunError("cannot be written", where=str(target), why=error.strerror or str(error)) from None
    finally:
        part.unlink(missing_ok=True)
    return target


def metadata(run: Run) -> dict[str, str]:
    """What travels with the weights: classes, input form and the guarantee. No path, no identifier."""
    record, form = run.record, input_form(run)
    return {
        "producer": f"confide {record.versions.get('confide', '')}".strip(),
        "name": record.name,
        "classes": json.dumps(record.data.classes),
        "input": json.dumps(
            {"channels": form.channels, "size": form.size, "range": [0, 1], "layout": "NCHW"}
        ),
        "architecture": json.dumps({"name": record.model.name, "options": record.model.options}, default=str),
        "normalisation": json.dumps({"mean": form.mean, "std": form.std}),
        "temperature": str(record.calibration.temperature if record.calibration is not None else 1.0),
        "guarantee": record.guarantee["text"]
        if record.guarantee and "text" in record.guarantee
        else "none: no DP",
        "seed_policy": record.seed_policy,
    }


def _write_onnx(model: Deployed, example: Tensor, notes: dict[str, str], path: Path) -> None:
    try:
        import onnx
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError:
        raise MissingExtraError("onnx and onnxscript", "export", "writing ONNX") from None
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)  # it tells everybody that torchvision is absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            model,
            (example,),
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    log.setLevel(level)
    assert program is not None
    proto = program.model_proto
    # The exporter writes source paths of this machine into the nodes.
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(proto, notes)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _write_torchscript(model: Deployed, example: Tensor, notes: dict[str, str], path: Path) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript; users of it know
        traced = torch.jit.trace(model, example, check_trace=False)
        assert isinstance(traced, torch.jit.ScriptModule)
        torch.jit.save(torch.jit.freeze(traced), str(path), _extra_files={"confide.json": json.dumps(notes)})


def _write_safetensors(model: Deployed, example: Tensor, notes: dict[str, str], path: Path) -> None:
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path, metadata=notes)


_WRITERS = {
    Format.ONNX: _write_onnx,
    Format.TORCHSCRIPT: _write_torchscript,
    Format.SAFETENSORS: _write_safetensors,
}


def _check(original: Deployed, model: Deployed, form: InputForm, format: Format, path: Path) -> None:
    """The file must answer five random images, a batch size it was not traced with, as the model does."""
    pixels = torch.rand(5, form.channels, *form.size)
    with torch.no_grad():
        expected = original(pixels).numpy()
    found = _answers(model, format, path, pixels)
    worst = float(abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not worst <= TOLERANCE:
        raise ConfideError(
            f"the {format.value} file differs from the model by {worst:.2g} in a probability",
            why="It was removed.",
            remedy="Report this together with the model's options.",
        )


def _answers(model: Deployed, format: Format, path: Path, pixels: Tensor) -> NDArray[np.float32]:
    """What the file at `path` answers, by the format's own runtime."""
    if format is Format.ONNX:
        try:
            import onnxruntime
        except ImportError:
            raise MissingExtraError("onnxruntime", "export", "checking an ONNX file") from None
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"pixels": pixels.numpy()})[0], dtype=np.float32)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        if format is Format.TORCHSCRIPT:
            return torch.jit.load(str(path))(pixels).numpy()
        import copy

        from safetensors.torch import load_file

        again = copy.deepcopy(model)
        again.load_state_dict(load_file(path))
        return again(pixels).numpy()
