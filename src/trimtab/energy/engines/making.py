"""From a name to an engine: whether it can be had here, made from a model, written to a folder, read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from trimtab.energy.encoding import PairEncoder
from trimtab.energy.engines.engine import ScoringEngine
from trimtab.energy.engines.names import NEEDS, REFERENCE, EngineName, missing_packages
from trimtab.energy.engines.pytorch import torch_engine
from trimtab.energy.model import EnergyModel, can_bf16

LOGGER = logging.getLogger("trimtab.energy")


def why_not(name: EngineName, *, exporting: bool = True) -> str | None:
    """Why the engine cannot be had on this machine, in a few words; None when it can.

    `exporting` False: its files are there already.
    """
    if missing := missing_packages(name, exporting=exporting):
        return f"{', '.join(missing)} is not installed: pip install 'trimtab[{NEEDS[name].extra}]'"
    if name == "cuda_bf16":
        return None if torch.cuda.is_available() and can_bf16() else "no CUDA device with bfloat16"
    if name.endswith("bf16") and not can_bf16(torch.device("cpu")):
        return "this processor has no bfloat16 arithmetic"
    return None


def usable(name: EngineName, *, exporting: bool = True) -> EngineName:
    """The engine, or what stands in for it here: torch at the same precision if it can, else the reference.

    A stand-in is told in one line of the log.
    """
    reason = why_not(name, exporting=exporting)
    if reason is None:
        return name
    precise: EngineName = "torch_bf16" if name.endswith("bf16") else REFERENCE
    stand_in = precise if why_not(precise) is None else REFERENCE
    LOGGER.warning("scoring with %s instead of %s: %s", stand_in, name, reason)
    return stand_in


def make_engine(name: EngineName, energy: EnergyModel, *, threads: int = 1) -> ScoringEngine:
    """The engine on these weights as they are now; nothing is written.

    `threads` are the streams of OpenVINO and ONNX Runtime; torch's threads are the process's own
    (`use_threads`).
    """
    match _runtime(name):
        case "openvino":
            from trimtab.energy.engines.openvino import OpenVINOEngine, openvino_model

            return OpenVINOEngine(name, openvino_model(energy), energy.encoder, threads=threads)
        case "onnx":
            from trimtab.energy.engines.onnx import OnnxEngine, onnx_model

            return OnnxEngine(name, onnx_model(energy, name), energy.encoder, threads=threads)
        case "torch":
            return torch_engine(name, energy)


def write_engine(name: EngineName, energy: EnergyModel, folder: Path) -> None:
    """Puts the files of the engine (`NEEDS`), if it has any, into the folder."""
    match _runtime(name):
        case "openvino":
            from trimtab.energy.engines.openvino import write_openvino

            write_openvino(energy, folder)
        case "onnx":
            from trimtab.energy.engines.onnx import write_onnx

            write_onnx(energy, folder, name)
        case "torch":
            pass


def read_engine(name: EngineName, folder: Path, encoder: PairEncoder, *, threads: int = 1) -> ScoringEngine:
    """The engine on its files in the folder, which the caller has verified."""
    if _runtime(name) == "openvino":
        from trimtab.energy.engines.openvino import OpenVINOEngine, read_openvino

        return OpenVINOEngine(name, read_openvino(folder), encoder, threads=threads)
    from trimtab.energy.engines.onnx import OnnxEngine

    return OnnxEngine(name, folder / NEEDS[name].files[0], encoder, threads=threads)


def _runtime(name: EngineName) -> Literal["torch", "openvino", "onnx"]:
    if name.startswith("openvino"):
        return "openvino"
    return "onnx" if name.startswith("onnx") else "torch"
