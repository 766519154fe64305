"""Tiny causal language models as folders that `--backbone` takes: random weights, a byte-level tokenizer."""

from __future__ import annotations

from pathlib import Path

WORDS = "what is the answer step blue red green way plus to number so it then colour one two three"
SPECIALS = {
    "gpt2": ["<|endoftext|>"],
    "llama": ["<unk>", "<s>", "</s>"],
    "mistral": ["<unk>", "<s>", "</s>", "<pad>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
WINDOW = 24  # tokens that mistral's layers look back


def causal_backbone(folder: Path, kind: str, **sizes: int) -> Path:
    """Two layers of hidden size 32 unless said otherwise; special tokens as the family has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        PreTrainedTokenizerFast,
        Qwen2Config,
        Qwen2ForCausalLM,
        set_seed,
    )

    specials = SPECIALS[kind]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator([f" {WORDS} {WORDS}"] * 4, trainer)
    named = {"eos_token": specials[0]}
    if "<s>" in specials:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
        named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    if kind == "gpt2":
        named |= {"bos_token": specials[0], "unk_token": specials[0]}
    if kind == "qwen2":
        named |= {"pad_token": specials[0]}
    if kind == "mistral":
        named |= {"pad_token": "<pad>"}
    PreTrainedTokenizerFast(
        tokenizer_object=core, **named, model_input_names=["input_ids", "attention_mask"]
    ).save_pretrained(folder)
    set_seed(0)
    common = {
        "vocab_size": core.get_vocab_size(),
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 32,
        "max_position_embeddings": 160,
        "eos_token_id": core.token_to_id(named["eos_token"]),
        "bos_token_id": core.token_to_id(named.get("bos_token", named["eos_token"])),
        "pad_token_id": None,
    }
    rotary = {"num_key_value_heads": 2, "intermediate_size": 48}
    made = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**common | sizes)),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**common | rotary | sizes)),
        "mistral": lambda: MistralForCausalLM(
            MistralConfig(**common | rotary | {"sliding_window": WINDOW} | sizes)
        ),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**common | rotary | sizes)),
    }
    made[kind]().save_pretrained(folder)
    return folder
