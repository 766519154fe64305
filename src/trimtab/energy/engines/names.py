"""Which engines there are and what each needs. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

EngineName = Literal[
    "torch_fp32", "torch_bf16", "openvino_fp32", "openvino_bf16", "onnx_fp32", "onnx_int8", "cuda_bf16"
]
REFERENCE: EngineName = "torch_fp32"  # whose ranking the others must keep


@dataclass(frozen=True, slots=True)
class EngineNeeds:
    """What an engine takes."""

    packages: tuple[str, ...]  # to compute with it
    extra: str  # of ours that installs them
    exporting: tuple[str, ...] = ()  # packages that making its files takes besides
    files: tuple[str, ...] = ()  # in the adapter's folder; none: it reads the weights themselves


NEEDS: dict[EngineName, EngineNeeds] = {
    "torch_fp32": EngineNeeds(("torch",), "train"),
    "torch_bf16": EngineNeeds(("torch",), "train"),
    "openvino_fp32": EngineNeeds(
        ("openvino",), "openvino", files=("engine-openvino.xml", "engine-openvino.bin")
    ),
    "openvino_bf16": EngineNeeds(
        ("openvino",), "openvino", files=("engine-openvino.xml", "engine-openvino.bin")
    ),
    "onnx_fp32": EngineNeeds(
        ("onnxruntime",), "onnx", exporting=("onnx", "onnxscript"), files=("engine-fp32.onnx",)
    ),
    "onnx_int8": EngineNeeds(
        ("onnxruntime",), "onnx", exporting=("onnx", "onnxscript"), files=("engine-int8.onnx",)
    ),
    "cuda_bf16": EngineNeeds(("torch",), "train"),
}


def missing_packages(name: EngineName, *, exporting: bool = False) -> list[str]:
    """The packages that the engine needs and that are not installed; `exporting`: to make its files too."""
    needs = NEEDS[name]
    wanted = [*needs.packages, *(needs.exporting if exporting else ())]
    return [package for package in wanted if find_spec(package) is None]
