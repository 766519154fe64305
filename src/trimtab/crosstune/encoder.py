"""`LocalEncoder`: a frozen Hugging Face encoder on this machine, read layer by layer.

torch and transformers are loaded when the first text is read. Where weights are found is `energy.backbone`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.crosstune.readings import Progress, Reading
from trimtab.energy.lengths import in_batches
from trimtab.errors import AdapterError, InputError, MissingExtraError

SLOT = "[MASK]"  # how a template names the slot; the model's own mask token is put there
BATCH_TOKENS = 2048  # padded tokens of one forward pass; more brings nothing on a CPU with this size of model


class LocalEncoder:
    """The token states of chosen layers of a frozen encoder.

    Args:
        name_or_path: a hub name, a folder, or 'offline' for the embedded MiniLM.
        layers: hidden states to give: 0 is the embedding, the last number the last layer; negative ones
            count from the end.
        template: what is read in place of the text: `{text}`, and `[MASK]` for the slot.
        max_length: tokens of the longest text; a longer text loses its end, never the template's words.
        device: where to compute; None means CUDA where there is one.

    Raises:
        InputError: a template without `{text}`.
    """

    def __init__(
        self,
        name_or_path: str | Path = "offline",
        *,
        layers: Sequence[int] = (3, 4, 5, 6),
        template: str = "{text}",
        max_length: int = 256,
        device: str | None = None,
    ) -> None:
        if template.count("{text}") != 1:
            raise InputError(f"a template names {{text}} once; this one does not: {template!r}")
        self.name_or_path = str(name_or_path)
        self.template = template
        self.max_length = max_length
        self.device = device
        self._asked_layers = tuple(layers)

    def __deepcopy__(self, memo: dict[int, object]) -> LocalEncoder:
        return self  # frozen weights are shared by scikit-learn's clones

    def __repr__(self) -> str:
        return f"LocalEncoder({self.name_or_path!r}, layers={self._asked_layers}, template={self.template!r})"

    @property
    def name(self) -> str:
        """Model, layers, template and length."""
        layers = ",".join(map(str, self._asked_layers))
        return f"{self.name_or_path}|layers {layers}|{self.max_length} tokens|{self.template}"

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers asked for."""
        return self._asked_layers

    def to_json(self) -> dict[str, Any]:
        """What is needed to make it again, but for the weights."""
        return {
            "name_or_path": self.name_or_path,
            "layers": list(self._asked_layers),
            "template": self.template,
            "max_length": self.max_length,
        }

    def read(self, texts: Sequence[str], progress: Progress | None = None) -> list[Reading]:
        """One reading a text, in order; texts of like length are read together.

        Raises:
            AdapterError: the encoder is missing, damaged, has no such layer or no such slot.
            MissingExtraError: torch and transformers, or the offline weights, are not installed.
        """
        encoded = [self._encoded(text) for text in texts]
        readings: list[Reading | None] = [None] * len(encoded)
        done = 0
        for batch in in_batches([len(ids) for ids, _ in encoded], BATCH_TOKENS):
            for index, reading in zip(batch, self._read_batch([encoded[i] for i in batch]), strict=True):
                readings[index] = reading
            done += len(batch)
            if progress:
                progress(done, len(encoded))
        return [reading for reading in readings if reading is not None]

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
        except ModuleNotFoundError:
            raise MissingExtraError("train", "a local encoder") from None
        from trimtab.energy.backbone import backbone_folder
        from trimtab.energy.model import quiet_transformers

        folder = backbone_folder(self.name_or_path)
        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
                network = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise AdapterError(f"{folder} cannot be read as an encoder: {error}") from None
        self._check(network, tokenizer)
        for parameter in network.parameters():  # memory-mapped ones lie at odd addresses and add up otherwise
            parameter.data = parameter.data.clone()
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return network.to(device).eval(), tokenizer

    def _check(self, network: Any, tokenizer: Any) -> None:
        depth = int(network.config.num_hidden_layers)
        wrong = [layer for layer in self._asked_layers if not -depth - 1 <= layer <= depth]
        if wrong or not self._asked_layers:
            raise AdapterError(f"'{self.name_or_path}' has layers 0 to {depth}; asked for {wrong or 'none'}")
        if SLOT in self.template and tokenizer.mask_token_id is None:
            raise AdapterError(
                f"'{self.name_or_path}' knows no mask token: the template cannot have a {SLOT}"
            )

    @cached_property
    def _frame(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Special tokens before, the template's own before the text, after it, special tokens after."""
        tokenizer = self._loaded[1]
        left, right = self.template.split("{text}")
        example = tokenizer("a", return_special_tokens_mask=True)
        ids, special = example["input_ids"], example["special_tokens_mask"]
        first = special.index(0)
        last = len(special) - special[::-1].index(0)
        return ids[:first], self._ids(left), self._ids(right), ids[last:]

    def _ids(self, text: str) -> list[int]:
        tokenizer = self._loaded[1]
        text = text.replace(SLOT, str(tokenizer.mask_token)) if tokenizer.mask_token else text
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        ids: list[int] = encoded["input_ids"]
        return ids

    def _encoded(self, text: str) -> tuple[list[int], bool]:
        """Token ids with everything around the text, and whether its end was cut."""
        start, left, right, end = self._frame
        ids = self._loaded[1](text, add_special_tokens=False, verbose=False)["input_ids"]
        room = self.max_length - len(start) - len(left) - len(right) - len(end)
        return [*start, *left, *ids[:room], *right, *end], len(ids) > room

    def _read_batch(self, batch: Sequence[tuple[list[int], bool]]) -> list[Reading]:
        import torch

        network, tokenizer = self._loaded
        width = max(len(ids) for ids, _ in batch)
        rows = [ids + [int(tokenizer.pad_token_id)] * (width - len(ids)) for ids, _ in batch]
        inputs = torch.tensor(rows, device=network.device)
        lengths = torch.tensor([len(ids) for ids, _ in batch], device=network.device)
        mask = (torch.arange(width, device=network.device)[None] < lengths[:, None]).long()
        with torch.inference_mode():
            layers = network(input_ids=inputs, attention_mask=mask, output_hidden_states=True).hidden_states
            states = torch.stack([layers[layer] for layer in self._asked_layers], dim=1).half().cpu().numpy()
        return [self._reading(ids, is_cut, states[i]) for i, (ids, is_cut) in enumerate(batch)]

    def _reading(self, ids: list[int], is_cut: bool, states: Any) -> Reading:
        start, _, _, end = self._frame
        mask_id = self._loaded[1].mask_token_id
        at = ids.index(mask_id) if SLOT in self.template else 0
        own = np.ascontiguousarray(states[:, : len(ids)])
        return Reading(own, own[:, at], len(start), len(end), is_cut)
