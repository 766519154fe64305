"""EnergyModel: g(question, text), the score of a candidate answer by an encoder or causal language model.

Training it is `fit`'s work, keeping it in a folder `adapter`'s, finding a backbone `backbone`'s, giving a
causal one what it lacks `causal`'s.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from trimtab.energy.backbone import backbone_folder
from trimtab.energy.causal import is_decoder, made_ready, reads_at_most, reads_left_to_right
from trimtab.energy.encoding import Pair, PairEncoder
from trimtab.energy.lengths import ROWS, STEP, of_one_length
from trimtab.energy.mlm import masked_scores
from trimtab.errors import AdapterError

Head = Literal["scalar", "mlm"]

# Padded tokens of one forward pass when scoring.
CPU_TOKENS = 1024  # a batch that stays in the caches; 4,096 is a tenth slower for MiniLM
CUDA_TOKENS = 65_536  # enough rows to fill the multiprocessors
MLM_SCORING_TOKENS = 1024  # the vocabulary's logits weigh far more


class EnergyModel:
    """An encoder or causal language model with one scalar output, its tokenizer, how long a pair it reads.

    `head` is "scalar", or "mlm" for the paper's ablation: then the score is the mean log-probability of
    the text's tokens, each masked once (see `mlm`). `bf16` scores in bfloat16: about twice as fast on
    CPUs that have it, equal to two or three digits.
    """

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        backbone: str,
        max_length: int = 256,
        head: Head = "scalar",
        bf16: bool = False,
    ) -> None:
        self.network = network
        self.tokenizer = tokenizer
        self.backbone = backbone
        self.max_length = max_length
        self.head: Head = head
        self.bf16 = bf16
        self.encoder = PairEncoder(tokenizer, max_length, is_causal=reads_left_to_right(network))

    @classmethod
    def pretrained(
        cls,
        name_or_path: str | Path,
        *,
        max_length: int = 256,
        seed: int = 0,
        head: Head = "scalar",
        bf16: bool = False,
        device: str | None = None,
    ) -> EnergyModel:
        """The energy model on a backbone: a hub name, a folder, or 'offline' for the embedded MiniLM.

        A scalar head the weights lack is drawn by `seed`. `device` None means CUDA where there is one.

        Raises:
            AdapterError: the backbone is missing, damaged, of another kind, or reads less than `max_length`.
            MissingExtraError: 'offline' without the offline extra.
        """
        folder = backbone_folder(name_or_path)
        network, tokenizer = _loaded(folder, head, seed)
        _check_length(str(name_or_path), reads_at_most(network, tokenizer), max_length)
        network.to(device or _default_device()).eval()
        return cls(
            network, tokenizer, backbone=str(name_or_path), max_length=max_length, head=head, bf16=bf16
        )

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = self.network.device
        return device

    def score(self, question: str, texts: Sequence[str]) -> list[float]:
        """g(question, text) for each text, in order; higher is better."""
        return self.score_pairs([(question, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]], *, bf16: bool | None = None) -> list[float]:
        """The score of each (question, text) pair, in order; equal pairs are scored once.

        `bf16` overrides the model's own setting for this call.
        """
        distinct = list(dict.fromkeys(pairs))
        values = self._distinct_scores(distinct, self.bf16 if bf16 is None else bf16)
        scores = dict(zip(distinct, values, strict=True))
        return [scores[pair] for pair in pairs]

    def _distinct_scores(self, pairs: Sequence[tuple[str, str]], bf16: bool) -> list[float]:
        encoded = self.encode(pairs)
        scores = [0.0] * len(encoded)
        for batch in of_one_length([len(pair) for pair in encoded], self.tokens):
            values = self._scores([encoded[i] for i in batch], bf16)
            for index, value in zip(batch, values, strict=True):
                scores[index] = value
        return scores

    @property
    def tokens(self) -> int:
        """The padded tokens of one forward pass when scoring."""
        return MLM_SCORING_TOKENS if self.head == "mlm" else scoring_tokens(self.device)

    @property
    def streams(self) -> int:
        """One: torch shares out each product among its threads."""
        return 1

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Pair]:
        """Each pair's tokens, in order."""
        return self.encoder.encode(pairs)

    def scores(self, batch: Sequence[Pair]) -> list[float]:
        """One score an encoded pair, in order, in one pass."""
        return self._scores(batch, self.bf16)

    def _scores(self, batch: Sequence[Pair], bf16: bool) -> list[float]:
        with scoring_alike(self.network), bf16_autocast(self.device, bf16):
            values: list[float] = self.forward(batch, step=STEP).tolist()
        return values[: len(batch)]

    def forward(self, batch: Sequence[Pair], *, step: int = 1) -> Float[Tensor, " texts"]:
        """The scores of encoded pairs, in float32, in one pass; gradients flow when they are enabled.

        Its length is a multiple of `step` tokens.
        """
        inputs = self.encoder.collate(batch, self.device, step=step)
        if self.head == "mlm":
            return masked_scores(self.network, inputs, batch, int(self.tokenizer.mask_token_id))
        scores: Tensor = self.network(**inputs).logits[:, 0].float()
        return scores


def scoring_tokens(device: torch.device) -> int:
    """The padded tokens of one forward pass at which scoring on this device is quickest."""
    return CUDA_TOKENS if device.type == "cuda" else CPU_TOKENS


def use_threads(threads: int) -> None:
    """Lets torch compute with this many threads; the same number gives the same bits again."""
    torch.set_num_threads(threads)


def quickest_threads() -> int:
    """The number of threads, in doublings from 1, that multiplies matrices quickest right now.

    Measured, because a further thread beside a busy process costs more than it brings.
    """
    counts = [2**power for power in range(torch.get_num_threads().bit_length())]
    before = torch.get_num_threads()
    try:
        quickest: int = min(counts, key=_product_seconds)
        return quickest
    finally:
        torch.set_num_threads(before)


def _product_seconds(threads: int) -> float:
    torch.set_num_threads(threads)
    left, right = torch.zeros(1024, 384), torch.zeros(384, 1536)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(8):
            left @ right
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def can_bf16(device: torch.device | None = None) -> bool:
    """True where bfloat16 arithmetic is in the hardware, so that autocast saves time; None: here."""
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def bf16_autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Matrix products in bfloat16 inside this context, when enabled."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


@contextmanager
def evaluating(network: Any) -> Iterator[None]:
    """The network without dropout inside this context, and as it was after it."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


@contextmanager
def scoring_alike(network: Any) -> Iterator[None]:
    """As `evaluating`, without gradients; a text's score does not hang on how many are scored with it.

    A head has one row a text. It sees a multiple of `ROWS` of them, the others being copies of the first, so
    there may be more scores than texts.
    """
    layers = [each for each in network.modules() if isinstance(each, nn.Linear)]
    hooks = [layer.register_forward_pre_hook(_filled_up) for layer in layers]
    try:
        with evaluating(network), torch.inference_mode():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _filled_up(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor] | None:
    (rows,) = given
    missing = -len(rows) % ROWS
    return (torch.cat([rows, rows[:1].expand(missing, -1)]),) if rows.ndim == 2 and missing else None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report of the head that is missing on purpose."""
    level = transformers_logging.get_verbosity()
    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bar:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _loaded(folder: Path, head: Head, seed: int) -> tuple[Any, Any]:
    """Network and tokenizer in a folder, in float32; a missing head is drawn by the seed."""
    kind: Any = AutoModelForSequenceClassification if head == "scalar" else AutoModelForMaskedLM
    try:
        with quiet_transformers(), torch.random.fork_rng():
            torch.manual_seed(seed)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            network = kind.from_pretrained(
                folder,
                config=_config(folder, head),
                local_files_only=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=head == "scalar",  # a head of more outputs is replaced
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise AdapterError(f"{folder} cannot be read as an encoder: {_first_line(error)}") from None
    _align(network)
    if is_decoder(network):
        made_ready(network, tokenizer)
    return network, tokenizer


def _config(folder: Path, head: Head) -> Any:
    """The backbone's configuration with one output and no dropout inside attention.

    That dropout keeps torch from its fused attention: on a CPU it halves the speed of training MiniLM and
    doubles its memory (measured at 256 tokens). Dropout elsewhere stays.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if head == "scalar":
        config.num_labels = 1
    for name in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    return config


def _align(network: Any) -> None:
    """Copies weights that lie memory-mapped, at odd addresses, to aligned ones.

    Else kernels add up in another order, and a model scores otherwise after it was saved and loaded.
    """
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _check_length(name: str, limit: int, max_length: int) -> None:
    if max_length > limit:
        raise AdapterError(
            f"'{name}' reads at most {limit} tokens; max_length {max_length} is too long for it"
        )
