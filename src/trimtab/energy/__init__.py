"""The adapter: a small encoder that scores an answer for a question, its losses, fit, calibration and folder.

Import the public names from here; torch is loaded when the first name that needs it is asked for:

    manifest, calibrate     no torch: what an adapter folder says of itself; scores -> P(correct)
    nce                     losses: tensors in, a number out
    encoding, backbone      (question, text) -> token ids; where a backbone's weights are
    causal                  what causal language models lack as backbones
    model                   EnergyModel: g(question, text)
    fitting                 no torch: what a fit is asked for and what it says
    groups, checkpoint, held_out, fit   training
    ranks, apart, processes training in several processes
    memory                  what activations take, and what is free for them
    adapter                 an EnergyModel and its Manifest <-> a folder
    placing                 no torch: a new folder in the place of an old one
    engines, engine_bench   what computes scores; which of them is quickest for an adapter
    scoring                 no torch: what many questions ask at once, scored together
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trimtab.errors import MissingExtraError

if TYPE_CHECKING:  # fit and calibrate are modules here, so their functions go by longer names
    from trimtab.energy import calibrate, fit
    from trimtab.energy.adapter import load_adapter as load_adapter
    from trimtab.energy.adapter import load_scorer as load_scorer
    from trimtab.energy.adapter import save_adapter as save_adapter
    from trimtab.energy.calibrate import Calibration as Calibration
    from trimtab.energy.calibrate import expected_calibration_error as expected_calibration_error
    from trimtab.energy.engine_bench import choose_engine as choose_engine
    from trimtab.energy.fit import Fit as Fit
    from trimtab.energy.fitting import FitReport as FitReport
    from trimtab.energy.fitting import FitSettings as FitSettings
    from trimtab.energy.fitting import Progress as Progress
    from trimtab.energy.manifest import Manifest as Manifest
    from trimtab.energy.manifest import read_manifest as read_manifest
    from trimtab.energy.manifest import verify_adapter as verify_adapter
    from trimtab.energy.model import EnergyModel as EnergyModel
    from trimtab.energy.model import can_bf16 as can_bf16
    from trimtab.energy.model import quickest_threads as quickest_threads
    from trimtab.energy.model import use_threads as use_threads
    from trimtab.energy.processes import fit_in_processes as fit_in_processes
    from trimtab.energy.processes import in_processes as in_processes
    from trimtab.energy.scoring import BatchingScorer as BatchingScorer
    from trimtab.energy.scoring import ScoringSettings as ScoringSettings

    fit_calibration = calibrate.calibrate
    fit_energy = fit.fit

_PLACES = {
    "Calibration": ("calibrate", "Calibration"),
    "fit_calibration": ("calibrate", "calibrate"),
    "expected_calibration_error": ("calibrate", "expected_calibration_error"),
    "Manifest": ("manifest", "Manifest"),
    "read_manifest": ("manifest", "read_manifest"),
    "verify_adapter": ("manifest", "verify_adapter"),
    "EnergyModel": ("model", "EnergyModel"),
    "quickest_threads": ("model", "quickest_threads"),
    "use_threads": ("model", "use_threads"),
    "can_bf16": ("model", "can_bf16"),
    "FitSettings": ("fitting", "FitSettings"),
    "Fit": ("fit", "Fit"),
    "FitReport": ("fitting", "FitReport"),
    "Progress": ("fitting", "Progress"),
    "fit_energy": ("fit", "fit"),
    "fit_in_processes": ("processes", "fit_in_processes"),
    "in_processes": ("processes", "in_processes"),
    "save_adapter": ("adapter", "save_adapter"),
    "load_adapter": ("adapter", "load_adapter"),
    "load_scorer": ("adapter", "load_scorer"),
    "choose_engine": ("engine_bench", "choose_engine"),
    "BatchingScorer": ("scoring", "BatchingScorer"),
    "ScoringSettings": ("scoring", "ScoringSettings"),
}
_TRAIN_EXTRA = {"torch", "transformers", "jaxtyping", "huggingface_hub"}


def __getattr__(name: str) -> Any:
    """The public name, its module loaded on first use. Raises MissingExtraError without torch."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _PLACES[name]
    try:
        return getattr(import_module(f"{__name__}.{module}"), attribute)
    except ModuleNotFoundError as error:
        if error.name in _TRAIN_EXTRA:
            raise MissingExtraError("train", "an energy model") from None
        raise
