"""torch with the prefix run once: for causal networks, whose texts share what they start with.

What a causal network makes of a token hangs on the tokens before it alone. The keys and values of a question
and of the chain so far are therefore kept, by their token ids, and a longer text runs only what is new in it.
They are worked out in blocks of `STEP` tokens from the start of the text, each in a pass of its own length on
the states of those before it. So a score hangs on its own tokens alone, to the last bit, and not on what was
kept, let go, or shared the batch (decision 0047). Which network it is, in which precision, is `pytorch`'s.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from trimtab.energy.encoding import Pair
from trimtab.energy.engines.pytorch import TorchEngine
from trimtab.energy.lengths import STEP, rounded
from trimtab.energy.model import scoring_alike
from trimtab.errors import AdapterError

TOKENS = 4096  # of a batch: most of them are not run, and a pass over a block wants many rows
ATTENDING = {"full_attention", "sliding_attention"}  # layers whose states are a key and a value a token

Ids: TypeAlias = tuple[int, ...]


@dataclass(slots=True)
class PrefixCounts:
    """Tokens, their texts' last block filled up."""

    asked: int = 0  # as an engine without states would run them
    run: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class _Block:
    """What came of running a text's last tokens, from a multiple of `STEP` on."""

    score: float
    states: tuple[Float[Tensor, "heads tokens size"], ...]  # keys and values, layer by layer; of full blocks

    @property
    def size(self) -> int:
        return sum(states.nbytes for states in self.states)


class PrefixEngine:
    """A torch engine that keeps states of recent texts, `most_bytes` in all; the batch in hand comes on top.

    The network's weights must stay as they are. Raises AdapterError for networks without such states.
    """

    streams = 1
    tokens = TOKENS

    def __init__(self, engine: TorchEngine, most_bytes: int) -> None:
        _refuse(engine)
        self.name = engine.name
        self.network = engine.network
        self.encoder = engine.encoder
        self.counts = PrefixCounts()
        self._kept = _Kept(most_bytes)

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order; higher is better."""
        texts = [pair.ids for pair in batch]
        with scoring_alike(self.network):
            blocks = self._blocks(texts)
        self.counts.asked += sum(rounded(len(ids), STEP) for ids in texts)
        self._kept.keep(blocks)
        return [blocks[ids].score for ids in texts]

    def _blocks(self, texts: Sequence[Ids]) -> dict[Ids, _Block]:
        """Every block of these texts, by all tokens up to its end."""
        known: dict[Ids, _Block] = {}
        past = _Past()
        for start in range(0, max(map(len, texts)), STEP):
            prefixes = dict.fromkeys(ids[: start + STEP] for ids in texts if len(ids) > start)
            known |= self._kept.found(prefixes)
            new = [prefix for prefix in prefixes if prefix not in known]
            if new:
                past = past.before(new, start, known)
                known |= zip(new, self._run(new, start, past.cache), strict=True)
        return known

    def _run(self, prefixes: Sequence[Ids], start: int, past: Any) -> list[_Block]:
        """The prefixes' last blocks, in one pass on the states of all before `start`, which it adds to."""
        end = start + STEP
        device = self.network.device
        rows = [prefix[start:] + (self.encoder.pad,) * (end - len(prefix)) for prefix in prefixes]
        output = self.network(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.ones(len(rows), end, dtype=torch.long, device=device),
            past_key_values=past,
            **self._positions(start, device),
        )
        self.counts.run += len(rows) * STEP
        scores: list[float] = output.logits[:, 0].float().tolist()
        return [
            _Block(score, _last_states(past, row) if len(prefix) == end else ())
            for row, (prefix, score) in enumerate(zip(prefixes, scores[: len(rows)], strict=True))
        ]

    def _positions(self, start: int, device: torch.device) -> dict[str, Tensor]:
        """Nothing, unless padding would come to lie behind the last position that the network knows."""
        end = start + STEP
        most = getattr(self.network.config.get_text_config(), "max_position_embeddings", None) or end
        if end <= most:
            return {}
        return {"position_ids": torch.arange(start, end, device=device).clamp(max=most - 1)[None]}


def _refuse(engine: TorchEngine) -> None:
    if not engine.encoder.is_causal:
        raise AdapterError(
            f"a {type(engine.network).__name__} is bidirectional: a prefix's states hang on what follows, "
            "so none can be kept; leave out --prefix-cache"
        )
    kinds = set(getattr(engine.network.config.get_text_config(), "layer_types", None) or ATTENDING)
    if not kinds <= ATTENDING:
        raise AdapterError(
            f"a {type(engine.network).__name__} has layers without keys and values "
            f"({', '.join(sorted(kinds - ATTENDING))}), whose states cannot be cut; leave out --prefix-cache"
        )


@dataclass(frozen=True, slots=True)
class _Past:
    """States of prefixes, a row each, as a pass takes them and adds to them."""

    prefixes: Sequence[Ids] = ()
    cache: Any = field(default_factory=DynamicCache)

    def before(self, prefixes: Sequence[Ids], start: int, known: Mapping[Ids, _Block]) -> _Past:
        """The states before `start` of these; taken on from the pass before, where it ran them all."""
        rows = {prefix: row for row, prefix in enumerate(self.prefixes)}
        places = [rows.get(prefix[:start]) for prefix in prefixes]
        if None in places:
            chains = [[known[prefix[:at]] for at in range(STEP, start + 1, STEP)] for prefix in prefixes]
            return _Past(prefixes, _joined(chains))
        if places != list(range(len(rows))):
            self.cache.batch_select_indices(torch.tensor(places))
        return _Past(prefixes, self.cache)


def _joined(chains: Sequence[Sequence[_Block]]) -> Any:
    """The states of each chain of blocks, of one length, as a row of a cache; empty for empty chains."""
    cache = DynamicCache()
    blocks = [block for chain in chains for block in chain]
    for at in range(0, len(blocks[0].states) if blocks else 0, 2):
        keys, values = (torch.cat([block.states[side] for block in blocks], dim=-2) for side in (at, at + 1))
        cache.update(_in_rows(keys, len(chains)), _in_rows(values, len(chains)), at // 2)
    return cache


def _in_rows(states: Float[Tensor, "heads tokens size"], rows: int) -> Float[Tensor, "rows heads some size"]:
    heads, _, size = states.shape
    return states.view(heads, rows, -1, size).transpose(0, 1)


def _last_states(cache: Any, row: int) -> tuple[Tensor, ...]:
    """Keys and values of a row's last block, in memory of their own."""
    return tuple(
        states[row, :, -STEP:].clone() for layer in cache.layers for states in (layer.keys, layer.values)
    )


class _Kept:
    """Full blocks of recent texts, of so many bytes; what was unused longest is dropped first."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._blocks: OrderedDict[Ids, _Block] = OrderedDict()

    def found(self, prefixes: Iterable[Ids]) -> dict[Ids, _Block]:
        return {prefix: self._blocks[prefix] for prefix in prefixes if prefix in self._blocks}

    def keep(self, blocks: Mapping[Ids, _Block]) -> None:
        """Keeps these; a text loses its end before its start, without which the end is of no use."""
        for prefix in sorted(blocks, key=len, reverse=True):
            if blocks[prefix].states:
                self._drop(prefix)
                self._blocks[prefix] = blocks[prefix]
                self._bytes += blocks[prefix].size
        while self._bytes > self._most:
            self._drop(next(iter(self._blocks)))

    def _drop(self, prefix: Ids) -> None:
        block = self._blocks.pop(prefix, None)
        self._bytes -= block.size if block else 0
