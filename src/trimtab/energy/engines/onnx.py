"""ONNX Runtime as an engine, and its files: `engine-fp32.onnx` and `engine-int8.onnx`.

int8 means weights and activations of matrix products in eight bits, their ranges found in each pass.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch

from trimtab.energy.encoding import Pair, PairEncoder
from trimtab.energy.engines.graph import example_inputs, exportable
from trimtab.energy.engines.names import NEEDS, EngineName
from trimtab.energy.lengths import STEP
from trimtab.energy.model import EnergyModel

TOKENS = 1024  # int8 is a quarter slower at 4,096 for MiniLM on one core


class OnnxEngine:
    """A session on the CPU, which as many streams as threads may enter at once."""

    def __init__(
        self, name: EngineName, model: bytes | Path, encoder: PairEncoder, *, threads: int = 1
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.tokens = 1 if name == "onnx_int8" else TOKENS  # int8 takes its ranges from the whole batch
        self.streams = threads
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors: it warns of every shape that it cannot foresee
        source = str(model) if isinstance(model, Path) else model
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass; higher is better."""
        values: list[float] = self._session.run(None, self.encoder.padded(batch, step=STEP))[0].tolist()
        return values


def onnx_model(energy: EnergyModel, name: EngineName) -> bytes:
    """The energy model's graph in ONNX's form, quantised for the engine `onnx_int8`."""
    model = _exported(energy)
    if name == "onnx_int8":
        return _quantised(model)
    whole: bytes = model.SerializeToString()
    return whole


def write_onnx(energy: EnergyModel, folder: Path, name: EngineName) -> None:
    """Puts the engine's file into the folder."""
    (folder / NEEDS[name].files[0]).write_bytes(onnx_model(energy, name))


def _exported(energy: EnergyModel) -> Any:
    inputs = dict(example_inputs(energy.encoder))
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with exportable(energy) as graph, _quiet():
        program = torch.onnx.export(
            graph,
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=dict.fromkeys(inputs, axes),
            input_names=list(inputs),
            output_names=["scores"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _quantised(model: Any) -> bytes:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    del model.graph.value_info[:]  # the exporter's notes on shapes, which the quantiser finds contradictory
    with TemporaryDirectory() as scratch, _quiet():
        quantised = Path(scratch) / "quantised.onnx"
        quantize_dynamic(model, quantised, per_channel=True, weight_type=QuantType.QInt8)
        return quantised.read_bytes()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's and quantiser's warnings, which are about themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
