"""What an adapter folder says of itself: `trimtab.json`, the hashes of its files, its model card.

No torch here: evaluation and the command line read manifests. Weights are read and written by `adapter`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from trimtab.energy.calibrate import Calibration
from trimtab.energy.engines.names import EngineName
from trimtab.errors import AdapterError
from trimtab.stopping import DecisionCalibration, DecisionRule, RuleName

FORMAT = 1
MANIFEST_NAME = "trimtab.json"
WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "README.md"
_CHUNK = 1 << 20
_HUB_NAMES = {"offline": "sentence-transformers/all-MiniLM-L6-v2"}


class RuleSettings(BaseModel):
    """What was chosen for one decision rule on held-out questions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=1.0, gt=0)
    calibration: DecisionCalibration | None = None  # of its decisions
    certainty: float = Field(default=0.95, gt=0, le=1)  # at which drawing may stop


class Manifest(BaseModel):
    """The record that travels with an adapter's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    task: str
    rule: RuleName = "weighted_vote"  # the decision rule chosen for it
    rules: dict[RuleName, RuleSettings] = Field(default_factory=dict)  # for each rule, its own
    calibration: Calibration | None = None  # of single answers: score -> P(correct)
    score_deciles: tuple[float, ...] = ()  # nine, of single answers on held-out questions: what is usual
    black_box: str | None = None  # the model whose answers it was trained on
    backbone: str
    head: Literal["scalar", "mlm"] = "scalar"
    loss: str
    max_length: int = Field(ge=16)
    seed: int = 0
    data_hash: str = ""
    metrics: dict[str, JsonValue] = Field(default_factory=dict)
    settings: dict[str, JsonValue] = Field(default_factory=dict)  # the run's settings, as resolved
    engine: EngineName | None = None  # that scores with it; None: torch
    engine_trials: dict[str, JsonValue] = Field(default_factory=dict)  # why: each engine as measured
    parent: str | None = None  # weights hash of the adapter this one was trained on from
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    trimtab_version: str = Field(default_factory=lambda: version("trimtab"))
    files: dict[str, str] = Field(default_factory=dict)  # name -> SHA-256, of every file saved with it

    @property
    def weights_sha256(self) -> str | None:
        """The hash that names these weights; None before they are saved."""
        return self.files.get(WEIGHTS_NAME)

    def decision_rule(self, name: RuleName | None = None) -> DecisionRule:
        """The rule of that name, or the adapter's own, with the temperature and calibration chosen for it.

        A rule for which nothing was chosen is plain: temperature 1, not calibrated.
        """
        name = name or self.rule
        chosen = self.rules.get(name, RuleSettings())
        return DecisionRule(name, chosen.temperature, chosen.calibration, chosen.certainty)

    def decision_rules(self) -> tuple[DecisionRule, ...]:
        """Every rule for which something was chosen, as `compare` takes them."""
        return tuple(self.decision_rule(name) for name in self.rules)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def manifest_text(manifest: Manifest) -> str:
    """The text of `trimtab.json`; its last key is the checksum of all the others."""
    content = manifest.model_dump(mode="json")
    return json.dumps({**content, "checksum": _checksum(content)}, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of an adapter folder; its files are not looked at (see `verify_adapter`).

    Raises:
        AdapterError: no such folder, not an adapter, or a manifest that was damaged.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.is_file():
        raise AdapterError(f"{folder} is not an adapter folder: it has no {MANIFEST_NAME}")
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"{path} is damaged or not readable: {error}") from None
    return _parsed(path, content)


def verify_adapter(folder: Path | str) -> Manifest:
    """The manifest of an adapter folder whose every file is as it was saved.

    Files that the manifest does not name (a report, say) are left alone.

    Raises:
        AdapterError: a manifest or file that is missing or damaged; names the file.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = Path(folder) / name
        if not path.is_file():
            raise AdapterError(f"{path} is missing from the adapter; copy or train the adapter again")
        if sha256_file(path) != expected:
            raise AdapterError(
                f"{path} is not the file that was saved (its SHA-256 differs from {MANIFEST_NAME}); "
                "copy or train the adapter again"
            )
    return manifest


def model_card(manifest: Manifest) -> str:
    """The model card of an adapter, in Markdown."""
    header = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-classification",
        f"base_model: {json.dumps(_HUB_NAMES.get(manifest.backbone, manifest.backbone))}",
        "tags: [trimtab, energy-model, reranker]",
        "---",
    ]
    facts = {
        "task": manifest.task,
        "black box it was trained on": manifest.black_box or "recorded answers",
        "backbone": manifest.backbone,
        "loss": manifest.loss,
        "decision rule": f"{manifest.rule} (temperature {manifest.decision_rule().temperature:g})",
        "reads at most": f"{manifest.max_length} tokens of question and answer",
        "seed": str(manifest.seed),
        "data hash": manifest.data_hash or "not recorded",
        "trained on from": manifest.parent or "the backbone",
        "made": f"{manifest.created:%Y-%m-%d} by trimtab {manifest.trimtab_version}",
    }
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
    numbers = [f"| {key} | {_cell(json.dumps(value))} |" for key, value in manifest.metrics.items()]
    return "\n".join(
        [
            *header,
            f"# A trimtab adapter for {manifest.task}",
            "",
            "It scores a candidate answer to a question; a higher score is a better answer. It chooses among",
            "the answers of a language model that can only be called, and never writes one itself.",
            "",
            "| | |",
            "|---|---|",
            *rows,
            "",
            *(["## Measured", "", "| metric | value |", "|---|---|", *numbers, ""] if numbers else []),
            "## Use",
            "",
            "```python",
            "from trimtab.energy import load_adapter",
            "",
            'energy, manifest = load_adapter("this/folder")',
            "energy.score(question, [answer, other_answer])",
            "```",
            "",
            _transformers_note(manifest),
            "",
        ]
    )


def _transformers_note(manifest: Manifest) -> str:
    if manifest.head == "mlm":
        return (
            "The weights are a masked language model (the `mlm` ablation): `AutoModelForMaskedLM` reads them."
        )
    return "The weights are plain transformers: `AutoModelForSequenceClassification` reads this folder."


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _checksum(content: dict[str, JsonValue]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _parsed(path: Path, content: JsonValue) -> Manifest:
    if not isinstance(content, dict):
        raise AdapterError(f"{path} is not an adapter's manifest: a JSON object is needed")
    if content.get("format") != FORMAT:
        raise AdapterError(
            f"{path} has format {content.get('format')!r}; this version of trimtab reads format {FORMAT}: "
            f"{_way_out(content)}"
        )
    stated = content.pop("checksum", None)
    if stated != _checksum(content):
        raise AdapterError(f"{path} is damaged: its content does not match its own checksum")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise AdapterError(
            f"{path} is not a manifest that this version of trimtab reads: {where}: {first['msg']}; "
            f"{_way_out(content)}"
        ) from None


def _way_out(content: dict[str, JsonValue]) -> str:
    """What to do about a manifest that cannot be read."""
    stated = content.get("format")
    maker = f"the trimtab that made it ({content.get('trimtab_version')}, {content.get('created')})"
    if isinstance(stated, int) and stated > FORMAT:
        return f"upgrade to {maker}"
    return f"train it again (`trimtab adapt` with the data it was made from), or use it with {maker}"
