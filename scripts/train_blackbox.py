"""Train the embedded black box from scratch on procedurally generated problems and measure it.

    python scripts/train_blackbox.py --minutes 35 --out src/trimtab/llm/embedded/blackbox.safetensors

The data is generated on the fly (`trimtab.llm.embedded.world.training_text`), so no example is seen twice on
purpose. Matrices are trained with Muon, the embedding with AdamW; the learning rate falls linearly to zero
over the budget. One core is enough; `--device cuda` uses a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from trimtab.llm.embedded import world
from trimtab.llm.embedded.decoding import Request, complete
from trimtab.llm.embedded.model import Config, Model
from trimtab.llm.embedded.vocabulary import Vocabulary

VOCABULARY_SEED, HELDOUT_SEED = 7, 11
VOCABULARY_TEXTS = 60_000  # enough to meet every word of every wording many times over
POOL = 32  # batches sorted by length together, so that little of a batch is padding
MUON_RATE, MUON_MOMENTUM, EMBEDDING_RATE = 0.02, 0.95, 3e-3
WARM_UP = 0.02  # share of the budget
QUESTION_WEIGHT = (
    0.1  # the chain's tokens weigh 1: what is asked is chance, what is answered is to be learned
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Token numbers and, for each of them, how much predicting it weighs."""

    tokens: Tensor  # rows, length
    weights: Tensor  # rows, length


class Network(nn.Module):
    """The torch twin of `trimtab.llm.embedded.model.Model`: same weights, same mathematics."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        layers, width = config.layers, config.width
        self.embedding = nn.Parameter(torch.randn(config.vocabulary, width) * 0.05)
        self.qkv = nn.Parameter(torch.randn(layers, 3, width, width) / math.sqrt(width))
        self.out = nn.Parameter(torch.zeros(layers, width, width))
        self.up = nn.Parameter(torch.randn(layers, width, 4 * width) / math.sqrt(width))
        self.down = nn.Parameter(torch.zeros(layers, 4 * width, width))
        cosine, sine = config.rotations()
        self.register_buffer("cosine", torch.from_numpy(cosine), persistent=False)
        self.register_buffer("sine", torch.from_numpy(sine), persistent=False)
        later = torch.full((config.context, config.context), -1e4).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for the token after each position."""
        stream = normed(functional.embedding(tokens, self.embedding))
        for layer in range(self.config.layers):
            stream = stream + self.attended(layer, normed(stream))
            hidden = functional.relu(normed(stream) @ self.up[layer]).square()
            stream = stream + hidden @ self.down[layer]
        return normed(stream) @ self.embedding.T

    def attended(self, layer: int, stream: Tensor) -> Tensor:
        """What the heads of a layer bring together."""
        rows, length, width = stream.shape
        heads = self.config.heads

        def split(part: int) -> Tensor:
            flat = stream @ self.qkv[layer, part]
            return flat.view(rows, length, heads, width // heads).transpose(1, 2)

        query, key, value = self.rotated(split(0)), self.rotated(split(1)), split(2)
        # written out: torch's fused attention is five times slower on a CPU at this size
        scores = query @ key.mT / math.sqrt(width // heads)
        mixed = torch.softmax(scores + self.later[:length, :length].to(scores.dtype), dim=-1) @ value
        return mixed.transpose(1, 2).reshape(rows, length, width) @ self.out[layer]

    def rotated(self, heads: Tensor) -> Tensor:
        """Queries or keys turned by their positions."""
        length = heads.shape[2]
        cosine = self.cosine[:length].to(heads.dtype)
        sine = self.sine[:length].to(heads.dtype)
        left, right = heads.chunk(2, dim=-1)
        return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1)


def normed(stream: Tensor) -> Tensor:
    return functional.rms_norm(stream, stream.shape[-1:], eps=1e-6)


class Muon(torch.optim.Optimizer):
    """Momentum whose matrix is replaced by the nearest orthogonal one (Newton-Schulz, five steps)."""

    def __init__(self, parameters: list[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"lr": rate})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter against its orthogonalised momentum."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MUON_MOMENTUM)
                update = orthogonal(parameter.grad.lerp(momentum, MUON_MOMENTUM))
                rows, columns = parameter.shape[-2:]
                parameter.add_(update, alpha=-group["lr"] * max(1.0, columns / rows) ** 0.5)


def orthogonal(matrices: Tensor) -> Tensor:
    """Near-orthogonal matrices with the singular directions of these (coefficients: Jordan et al., 2024)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    found = (matrices.mT if tall else matrices).bfloat16()
    found = found / (found.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = found @ found.mT
        found = 3.4445 * found + (-4.7750 * gram + 2.0315 * gram @ gram) @ found
    return (found.mT if tall else found).to(matrices.dtype)


def batches(vocabulary: Vocabulary, rows: int, seed: int) -> Iterator[Batch]:
    """Endless batches of rows of about the same length."""
    pairs, rng = world.training_text(seed), random.Random(seed)
    while True:
        pool = [encoded(vocabulary, *pair) for pair in islice(pairs, rows * POOL)]
        pool.sort(key=lambda pair: len(pair[0]))
        chunks = [pool[start : start + rows] for start in range(0, len(pool), rows)]
        rng.shuffle(chunks)
        yield from map(padded, chunks)


def encoded(vocabulary: Vocabulary, question: str, chain: str) -> tuple[list[int], int]:
    """The tokens of a training example and the number of them that the model will be given."""
    prompt = [vocabulary.bos, *vocabulary.encode(question + "\n")]
    return [*prompt, *vocabulary.encode(chain), vocabulary.eos], len(prompt)


def padded(examples: list[tuple[list[int], int]]) -> Batch:
    length = max(len(tokens) for tokens, _ in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    weights = torch.zeros(len(examples), length)
    for row, (numbers, given) in enumerate(examples):
        tokens[row, : len(numbers)] = torch.tensor(numbers)
        weights[row, :given] = QUESTION_WEIGHT
        weights[row, given : len(numbers)] = 1.0
    return Batch(tokens, weights)


def loss_of(network: Network, batch: Batch) -> Tensor:
    """Mean weighted cross-entropy of the next token."""
    logits = network(batch.tokens[:, :-1]).float()
    weights = batch.weights[:, 1:].reshape(-1)
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].reshape(-1), reduction="none")
    return (losses * weights).sum() / weights.sum()


def share_of_rate(done: float) -> float:
    """The learning rate's factor when this share of the budget is spent."""
    return min(1.0, (done + 1e-3) / WARM_UP) * max(0.0, 1.0 - done)


def train(network: Network, vocabulary: Vocabulary, flags: argparse.Namespace) -> None:
    matrices = [network.qkv, network.out, network.up, network.down]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, flags.rate),
        torch.optim.AdamW([network.embedding], EMBEDDING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    rates = [flags.rate, EMBEDDING_RATE]
    started, tokens, recent = time.monotonic(), 0, 0.0
    for step, batch in enumerate(batches(vocabulary, flags.rows, flags.seed)):
        spent = time.monotonic() - started
        done = step / flags.steps if flags.steps else spent / (60 * flags.minutes)
        if done >= 1.0:
            break
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * share_of_rate(done)
        with torch.autocast(flags.device, torch.bfloat16, enabled=flags.bf16):
            loss = loss_of(network, Batch(batch.tokens.to(flags.device), batch.weights.to(flags.device)))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += batch.tokens.numel()
        recent = loss.item() if step == 0 else 0.98 * recent + 0.02 * loss.item()
        if step % flags.report == 0:
            speed = tokens / max(spent, 1e-9)
            print(f"{spent:6.0f} s  step {step:6d}  loss {recent:.4f}  {speed:,.0f} tokens/s", flush=True)


def save(network: Network, vocabulary: Vocabulary, path: Path) -> None:
    """Weights in half precision, with the configuration and the vocabulary beside them."""
    weights = {name: tensor.detach().cpu().half().contiguous() for name, tensor in network.named_parameters()}
    metadata = {"config": json.dumps(asdict(network.config)), "vocabulary": json.dumps(vocabulary.pieces)}
    save_file(weights, path, metadata)


def measured(model: Model, count: int, draws: int = 8) -> dict[str, float]:
    """What the model does on held-out problems at temperature 1, as shares."""
    singles = majorities = oracles = 0.0
    faults: Counter[world.Fault] = Counter()
    found = world.problems(HELDOUT_SEED, count)
    for start in range(0, count, 16):
        part = found[start : start + 16]
        requests = [
            Request(problem.text + "\n", n=draws, seed=start + row) for row, problem in enumerate(part)
        ]
        for problem, drawn in zip(part, complete(model, requests), strict=True):
            numbers = [world.final_number(text.text) for text in drawn.completions]
            wanted = problem.answer(problem.house)
            singles += numbers.count(wanted) / draws
            majorities += Counter(numbers).most_common(1)[0][0] == wanted
            oracles += wanted in numbers
            faults.update(world.fault(problem, text.text) for text in drawn.completions)
    wrong = faults.total() - faults[world.Fault.NONE]
    shares = {f"{fault.value} of errors": faults[fault] / max(wrong, 1) for fault in list(world.Fault)[1:]}
    return {
        "single": singles / count,
        "majority of 8": majorities / count,
        "right once in 8": oracles / count,
        **shares,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="where the weights go (safetensors)")
    parser.add_argument("--minutes", type=float, default=35.0, help="time budget")
    parser.add_argument("--steps", type=int, default=0, help="a budget in steps instead (repeatable)")
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--rows", type=int, default=48, help="examples a batch")
    parser.add_argument("--rate", type=float, default=MUON_RATE, help="Muon's learning rate")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--report", type=int, default=100, help="steps between two lines")
    parser.add_argument("--problems", type=int, default=600, help="held-out problems to measure on")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    torch.manual_seed(flags.seed)
    texts = islice(world.training_text(VOCABULARY_SEED), VOCABULARY_TEXTS)
    vocabulary = Vocabulary.of(f"{question}\n{chain}" for question, chain in texts)
    network = Network(Config(len(vocabulary), flags.layers, flags.width, flags.heads))
    if flags.start:
        network.load_state_dict({name: t.float() for name, t in load_file(flags.start).items()})
    print(f"{sum(p.numel() for p in network.parameters()):,} weights, {len(vocabulary)} pieces", flush=True)
    train(network.to(flags.device), vocabulary, flags)
    save(network, vocabulary, flags.out)
    for name, share in measured(Model.load(flags.out), flags.problems).items():
        print(f"{name:24s} {share:6.1%}")


if __name__ == "__main__":
    main()
