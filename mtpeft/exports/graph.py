"""A model as a graph: `torch.export`, ONNX by torch's exporter, and the comparison of what comes out."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mtpeft.errors import ConfigError

#: the largest difference that is taken for rounding, of the largest output
TOLERANCE = 1e-4
#: batches that are compared; a graph is traced with the larger one
SMALL, LARGE = 1, 3


def needs(*packages: str) -> None:
    """Raise `ConfigError` naming the extra where one of `packages` is not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"{', '.join(missing)} is not installed: pip install 'mtpeft[export]'")


@torch.no_grad()
def program_of(model: nn.Module, example: Sequence[torch.Tensor], what: str) -> torch.export.ExportedProgram:
    """`torch.export` of `model` on `example` tensors, whose first axes are one dynamic batch.

    Raises `ConfigError` that begins with `what` where torch cannot trace it.
    """
    batch = {0: torch.export.Dim("batch")}
    shapes = {"images": batch} | ({"weights": tuple(batch for _ in example[1:])} if len(example) > 1 else {})
    try:
        with quiet():
            return torch.export.export(model, tuple(example), dynamic_shapes=shapes, strict=False)
    except ConfigError:
        raise
    except Exception as error:  # whatever torch says to what it cannot trace
        raise ConfigError(f"{what} cannot be exported: torch.export fails ({_line(error)})") from error


def write_onnx(program: torch.export.ExportedProgram, names: Sequence[str], output: str, file: Path, what: str) -> None:
    """Write `program` as ONNX with inputs `names` and one `output`, the first axis of each dynamic."""
    try:
        with quiet(), torch.no_grad():
            made = torch.onnx.export(
                program, dynamo=True, input_names=list(names), output_names=[output], verbose=False
            )
            assert made is not None
            made.save(file)
    except Exception as error:  # whatever torch's exporter says
        raise ConfigError(f"{what} cannot be exported: torch's ONNX exporter fails ({_line(error)})") from error


class OnnxModel:
    """A file in onnxruntime, on the CPU."""

    def __init__(self, file: Path, what: str) -> None:
        """`what` is said in errors."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise ConfigError(f"{what} cannot be exported: onnxruntime refuses the graph ({_line(error)})") from error
        self.taken = {taken.name for taken in self.session.get_inputs()}

    def __call__(self, feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        """The one output."""
        given = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in feeds.items() if name in self.taken}
        return torch.from_numpy(self.session.run(None, given)[0])


def difference(expected: torch.Tensor, found: torch.Tensor, what: str) -> float:
    """The largest difference; `ConfigError` where it is no rounding, or the shapes differ."""
    if expected.shape != found.shape:
        raise ConfigError(
            f"{what} cannot be exported: it gives {tuple(found.shape)} where mtpeft gives {tuple(expected.shape)}"
        )
    largest = float((expected - found).abs().max())
    allowed = TOLERANCE * float(expected.abs().max())
    if not largest <= allowed:
        raise ConfigError(f"{what} cannot be exported: its outputs differ by {largest:.1e}, more than {allowed:.1e}")
    return largest


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what exporters print, log or warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _line(error: BaseException) -> str:
    """The kind of an error and the first line of its deepest cause, not longer than a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text: Any = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[0][:160]}".strip(": ")
