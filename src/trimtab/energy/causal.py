"""Causal language models as backbones: what they lack to be scored in batches, and whether they are causal.

How a pair is written for them is `encoding`'s affair; prefixes that are run once, `engines.prefix`'s.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import AdapterError


def is_decoder(network: Any) -> bool:
    """True for networks of a language model's build, which take the states of what came before."""
    return "past_key_values" in inspect.signature(network.forward).parameters


def made_ready(network: Any, tokenizer: Any) -> None:
    """Gives a decoder and its tokenizer what padded batches take; both are saved with it.

    Its head reads the last token that is not padding: the padding must be named in both, alike, and
    be no token that a text ends with. No token to pad with is made up, as the weights have no row for it.
    """
    config = network.config.get_text_config()
    tokenizer.padding_side = "right"
    rows = int(config.vocab_size)
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id) or tokenizer.pad_token_id >= rows:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(_padding(tokenizer, rows))
    config.pad_token_id = int(tokenizer.pad_token_id)
    config.use_cache = False  # while it is trained and scored whole
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # decoders know no segments
    network.get_input_embeddings().padding_idx = None  # the same token in a text has its gradient


def _padding(tokenizer: Any, rows: int) -> int:
    """A special token without a use here; the end of text where there is no other (GPT-2)."""
    end, begin = tokenizer.eos_token_id, tokenizer.bos_token_id
    special = [i for i, token in tokenizer.added_tokens_decoder.items() if token.special and i < rows]
    if end is not None:
        special.append(int(end))
    if not special:
        raise AdapterError("the backbone's tokenizer has no special token that texts could be padded with")
    return int(min(special, key=lambda i: (i == end, i == begin, i)))


def reads_at_most(network: Any, tokenizer: Any) -> int:
    """The tokens that the backbone reads; decoders' tokenizers often do not tell."""
    stated = int(tokenizer.model_max_length)
    if not is_decoder(network):
        return stated
    return min(stated, getattr(network.config.get_text_config(), "max_position_embeddings", None) or stated)


def reads_left_to_right(network: Any) -> bool:
    """True when what comes after a token changes nothing in it: tried, as configurations do not tell."""
    if not is_decoder(network):
        return False
    ids = torch.tensor([[0, 1, 0, 0], [0, 1, 1, 1]], device=network.device)
    with torch.inference_mode():
        states: Tensor = network.base_model(
            input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
        ).last_hidden_state[:, :2]
    one, other = states
    return bool((one - other).norm() <= 1e-5 * one.norm())
