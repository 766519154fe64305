"""OpenVINO as an engine, and its files: `engine-openvino.xml` and `.bin`, weights in float32.

It computes in float32 or bfloat16 from the same files.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from trimtab.energy.encoding import Pair, PairEncoder
from trimtab.energy.engines.graph import example_inputs, exportable
from trimtab.energy.engines.names import NEEDS, EngineName
from trimtab.energy.lengths import STEP
from trimtab.energy.model import EnergyModel


def _openvino() -> Any:
    """The package. Importing it tells its makers so where its telemetry package is found; here it is not."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")


openvino = _openvino()
TOKENS = 1024  # flat from 512 to 2,048 for MiniLM on one core
PRECISIONS: dict[EngineName, str] = {"openvino_fp32": "f32", "openvino_bf16": "bf16"}


class OpenVINOEngine:
    """A compiled model on the CPU: as many streams as threads, each of one thread.

    Two streams lose nothing where one of the cores is busy; two threads in one stream wait for each other.
    """

    tokens = TOKENS

    def __init__(self, name: EngineName, model: Any, encoder: PairEncoder, *, threads: int = 1) -> None:
        self.name = name
        self.encoder = encoder
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[name],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": threads,
            "ENABLE_CPU_PINNING": False,  # or two processes sit on the same core
        }
        self.streams = threads
        compiled = openvino.Core().compile_model(model, "CPU", settings)
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(threads):
            self._idle.put(compiled.create_infer_request())

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass; higher is better."""
        request = self._idle.get()
        try:
            values: list[float] = request.infer(self.encoder.padded(batch, step=STEP))[0].tolist()
            return values
        finally:
            self._idle.put(request)


def openvino_model(energy: EnergyModel) -> Any:
    """The energy model's graph in OpenVINO's form."""
    with exportable(energy) as graph, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's, of branches that are fixed for an encoder
        return openvino.convert_model(graph, example_input=dict(example_inputs(energy.encoder)))


def write_openvino(energy: EnergyModel, folder: Path) -> None:
    """Puts the engine's files into the folder."""
    xml, _ = NEEDS["openvino_bf16"].files
    openvino.save_model(openvino_model(energy), folder / xml, compress_to_fp16=False)


def read_openvino(folder: Path) -> Any:
    """The model that the folder's files hold."""
    xml, _ = NEEDS["openvino_bf16"].files
    return openvino.Core().read_model(folder / xml)
