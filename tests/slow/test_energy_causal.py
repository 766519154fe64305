"""Laws of causal language models as backbones, and of prefixes that are run once, on tiny networks."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from click.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from causal import WINDOW, causal_backbone
from trimtab.cli.app import app
from trimtab.energy import BatchingScorer, Manifest, load_adapter, load_scorer, read_manifest, save_adapter
from trimtab.energy.causal import reads_left_to_right
from trimtab.energy.engines.engine import EngineScorer
from trimtab.energy.engines.prefix import PrefixEngine
from trimtab.energy.engines.pytorch import torch_engine
from trimtab.energy.fit import fit
from trimtab.energy.fitting import FitSettings
from trimtab.energy.held_out import held_out_evaluation
from trimtab.energy.lengths import STEP, rounded
from trimtab.energy.model import EnergyModel
from trimtab.energy.parameters import quick_attention
from trimtab.errors import AdapterError
from trimtab.llm.embedded import running
from trimtab.llm.embedded.world import questions as world_questions
from trimtab.search import extended, opened, pruned, scored, unscored
from trimtab.types import Contrast

pytestmark = pytest.mark.slow

KINDS = ["gpt2", "llama", "mistral", "qwen2"]
WORDS = ["step", "blue", "red", "green", "way", "plus", "number", "colour", "one", "two", "three"]
LENGTH = 96
ROOM = 1 << 24


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Callable[[str], Path]:
    return cache(lambda kind: causal_backbone(tmp_path_factory.mktemp(kind), kind))


@pytest.fixture(scope="module")
def energy(folder) -> Callable[[str], EnergyModel]:
    """Models for all tests that leave them as they are; answers differ by more than rounding."""

    def made(kind: str) -> EnergyModel:
        model = EnergyModel.pretrained(folder(kind), max_length=LENGTH, device="cpu")
        with torch.no_grad():
            for parameter in model.network.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(5.0)
        return model

    return cache(made)


def keeping(energy: EnergyModel, most_bytes: int = ROOM) -> EngineScorer:
    """A scorer that keeps prefixes."""
    return EngineScorer(energy.encoder, PrefixEngine(torch_engine("torch_fp32", energy), most_bytes))


def said(rng: random.Random, most: int) -> str:
    return "".join(f" {word}" for word in rng.choices(WORDS, k=rng.randint(1, most)))


def pairs(count: int, seed: int = 0, most: int = 60) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [("what is the" + said(rng, 3) + "?", said(rng, most)) for _ in range(count)]


def coloured(count: int, seed: int = 0) -> list[Contrast]:
    rng = random.Random(seed)

    def answer(words: list[str]) -> str:
        return " step" * rng.randint(0, 3) + " the answer is " + rng.choice(words)

    return [
        Contrast(f"q{i}", "what is the colour?", (answer(["red", "blue"]),), (answer(["two", "three"]),))
        for i in range(count)
    ]


def manifest() -> Manifest:
    return Manifest(task="exact", backbone="tiny", loss="ranking_nce", max_length=LENGTH)


# --------------------------------------------------------------------------- pairs and padding


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_question_line_break_and_text_and_ends_with_what_is_no_padding(energy, kind):
    model = energy(kind)
    tokenizer = model.tokenizer
    pair = model.encode([("what is the answer?", " blue way")])[0]
    begin = tokenizer.bos_token if kind in ("llama", "mistral") else ""
    end = "\n" if kind == "gpt2" else tokenizer.eos_token
    assert tokenizer.decode(pair.ids) == f"{begin}what is the answer?\n blue way{end}"
    assert tokenizer.decode(pair.ids[pair.text_start : pair.text_end]) == " blue way"
    assert pair.ids[-1] != tokenizer.pad_token_id == model.network.config.pad_token_id
    assert model.encoder.is_causal


@pytest.mark.parametrize("kind", KINDS)
def test_the_head_reads_the_last_token_however_much_padding_follows(energy, kind):
    model = energy(kind)
    asked = [("what?", " step" * count) for count in (1, 3, 9, 30)]
    with torch.inference_mode():
        alone = []
        for pair in model.encode(asked):
            hidden = model.network.base_model(input_ids=torch.tensor([pair.ids])).last_hidden_state[0, -1]
            alone.append(model.network.score(hidden).item())
    assert model.forward(model.encode(asked)).tolist() == pytest.approx(alone, abs=1e-4)
    assert model.score_pairs(asked) == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_scores_bit_for_bit_as_before_and_transformers_reads_it(tmp_path, energy, kind):
    model = energy(kind)
    asked = pairs(12)
    before = model.score_pairs(asked)
    save_adapter(tmp_path / "a", model, manifest())
    again, _ = load_adapter(tmp_path / "a", device="cpu")
    assert again.score_pairs(asked) == before
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    ids = [list(pair.ids) for pair in model.encode(asked)]
    inputs = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    with torch.inference_mode():
        assert network(**inputs).logits[:, 0].tolist() == pytest.approx(before, abs=1e-4)


def test_a_tokenizer_that_can_pad_with_nothing_is_refused(tmp_path, folder):
    whole = AutoTokenizer.from_pretrained(folder("llama"))
    causal_backbone(tmp_path, "llama")
    (tmp_path / "tokenizer.json").unlink()
    core = whole.backend_tokenizer
    bare = {**json.loads(core.to_str()), "added_tokens": [], "post_processor": None}
    PreTrainedTokenizerFast(tokenizer_object=type(core).from_str(json.dumps(bare))).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="no special token that texts could be padded with"):
        EnergyModel.pretrained(tmp_path, max_length=LENGTH)


def test_a_decoder_reads_no_more_than_it_has_positions_whatever_its_tokenizer_says(folder):
    assert AutoTokenizer.from_pretrained(folder("llama")).model_max_length > 10**9
    with pytest.raises(AdapterError, match="reads at most 160 tokens"):
        EnergyModel.pretrained(folder("llama"), max_length=161)


def test_an_encoder_is_not_taken_for_a_causal_network(tiny_backbone, energy):
    model = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu")
    assert not reads_left_to_right(model.network)
    assert not model.encoder.is_causal
    assert reads_left_to_right(energy("gpt2").network)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_is_the_same_bit_for_bit_whoever_shares_its_batches(energy, kind):
    model = energy(kind)
    asked = pairs(24)
    for scorer in (model, EngineScorer(model.encoder, torch_engine("torch_fp32", model))):
        together = scorer.score_pairs(asked)
        assert scorer.score_pairs(asked[::-1])[::-1] == together
        assert [scorer.score_pairs([each])[0] for each in asked] == together


# --------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_it_learns_to_tell_right_from_wrong_with_its_lower_layer_frozen_and_recomputing(folder, kind):
    rows = coloured(24)
    how = FitSettings(lr=5e-3, epochs=4, bf16=False, frozen_layers=1, evaluations_per_epoch=1, patience=9)
    ended = []
    for recompute in (False, True):
        model = EnergyModel.pretrained(folder(kind), max_length=LENGTH, device="cpu")
        before = {name: p.detach().clone() for name, p in model.network.named_parameters()}
        fit(model, rows, replace(how, recompute=recompute))
        ended.append(dict(model.network.named_parameters()))
        still = {name for name, p in ended[-1].items() if torch.equal(p, before[name])}
        assert {name.split(".", 1)[1] for name in still} == {
            name.split(".", 1)[1]
            for name in before
            if any(part in name for part in ("embed_tokens", "wte", "wpe", "layers.0.", "h.0."))
        }
        assert held_out_evaluation(model, coloured(12, seed=1)).pairwise > 0.9
    assert all(torch.equal(p, ended[1][name]) for name, p in ended[0].items())


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_attention_as_plain_products_gives_the_same_gradients(energy, kind):
    model = energy(kind)
    batch = model.encode(pairs(5, most=20))

    def gradients() -> list[torch.Tensor]:
        model.network.zero_grad()
        model.forward(batch).sum().backward()
        return [p.grad.clone() for p in model.network.parameters() if p.grad is not None]

    fused = gradients()
    with quick_attention(model.network):
        assert model.network.config._attn_implementation == "eager"
        plain = gradients()
    model.network.zero_grad()
    for one, other in zip(fused, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


# --------------------------------------------------------------------------- prefixes that are run once


@st.composite
def searches(draw: st.DrawFn) -> list[list[tuple[str, str]]]:
    """The texts of one or two questions' searches, level by level, the levels of both taking turns."""
    rng = random.Random(draw(st.integers(0, 10**6)))
    questions = ["what is" + said(rng, draw(st.integers(1, 30))) for _ in range(draw(st.integers(1, 2)))]
    most = draw(st.sampled_from([4, 12, 30]))  # the longest chains are cut in their middle
    found = {question: opened(2, 3, 4) for question in questions}
    levels = []
    for _ in range(4):
        for question in questions:
            grown = extended(
                found[question],
                [[said(rng, most) for _ in range(3)] for _ in found[question].kept],
                lambda _: False,
            )
            levels.append([(question, text) for text in unscored(grown)])
            found[question] = pruned(scored(grown, [rng.random() for _ in unscored(grown)]))
    return levels


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6)
@given(levels=searches())
def test_kept_prefixes_change_no_score_and_no_order(energy, kind, levels):
    model = energy(kind)
    scorer = keeping(model)
    for level in levels:
        plain, kept = model.score_pairs(level), scorer.score_pairs(level)
        assert kept == pytest.approx(plain, abs=1e-4)
        clear = [(i, j) for i in range(len(level)) for j in range(i) if abs(plain[i] - plain[j]) > 2e-4]
        assert all((plain[i] > plain[j]) == (kept[i] > kept[j]) for i, j in clear)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3)
@given(levels=searches())
def test_a_score_hangs_on_its_own_tokens_alone_whatever_was_kept_let_go_or_shared_the_batch(
    energy, kind, levels
):
    model = energy(kind)
    asked = list(dict.fromkeys(pair for level in levels for pair in level))
    together = keeping(model).score_pairs(asked)
    by_levels = keeping(model)
    assert [score for level in levels for score in by_levels.score_pairs(level)] == [
        together[asked.index(pair)] for level in levels for pair in level
    ]
    assert keeping(model, 1).score_pairs(asked[::-1])[::-1] == together
    small = keeping(model, 20_000)
    assert [small.score_pairs([pair])[0] for pair in asked] == together


def test_each_distinct_prefix_is_run_once_and_counted(energy):
    model = energy("llama")
    scorer = keeping(model)
    question = "what is the" + " number" * 30
    texts = [" step" * 20 + f" {word}" * 9 for word in WORDS]
    ids = [pair.ids for pair in model.encode([(question, text) for text in texts])]
    blocks = {each[: start + STEP] for each in ids for start in range(0, len(each), STEP)}
    scorer.score(question, texts)
    assert scorer.engine.counts.run == STEP * len(blocks)
    assert scorer.engine.counts.asked == sum(rounded(len(each), STEP) for each in ids)
    assert scorer.engine.counts.run < scorer.engine.counts.asked / 2
    before = scorer.engine.counts.run
    scorer.score(question, [texts[0] + " blue"])
    assert scorer.engine.counts.run - before <= 2 * STEP


def test_what_is_kept_stays_within_its_bytes_and_loses_ends_before_starts(energy):
    model = energy("llama")
    scorer = keeping(model, 0)
    scorer.score_pairs(pairs(5))
    assert not scorer.engine._kept._blocks
    assert scorer.engine._kept._bytes == 0
    scorer = keeping(model, 30_000)
    for pair in pairs(30):
        scorer.score_pairs([pair])
        kept = scorer.engine._kept
        assert kept._bytes == sum(block.size for block in kept._blocks.values()) <= 30_000
        ends = set(kept._blocks)
        assert all(len(each) == STEP or each[:-STEP] in ends for each in ends)


def test_a_text_cut_in_its_middle_shares_what_it_still_starts_with_and_scores_as_ever(energy):
    model = energy("llama")
    chain = " blue way" * 60
    asked = [("what is the answer?", chain + end) for end in (" red", " red step", " two")]
    encoded = model.encode(asked)
    assert {len(pair) for pair in encoded} == {LENGTH}
    scorer = keeping(model)
    assert scorer.score_pairs(asked) == pytest.approx(model.score_pairs(asked), abs=1e-4)
    assert scorer.engine.counts.run < scorer.engine.counts.asked


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_padding_behind_the_last_position_is_no_matter(tmp_path, kind):
    backbone = causal_backbone(tmp_path, kind, max_position_embeddings=39)
    model = EnergyModel.pretrained(backbone, max_length=39, device="cpu")
    asked = [("what is the answer?", " blue way" * count) for count in (1, 90)]
    assert keeping(model).score_pairs(asked) == pytest.approx(model.score_pairs(asked), abs=1e-4)


def test_a_window_shorter_than_the_text_is_kept_to(energy):
    model = energy("mistral")
    asked = [("what is" + start, " step" * (2 * WINDOW)) for start in (" red", " blue two")]
    assert keeping(model).score_pairs(asked) == pytest.approx(model.score_pairs(asked), abs=1e-4)


async def test_the_batching_scorer_gives_the_same_scores(energy):
    model = energy("gpt2")
    scorer = keeping(model)
    asked = pairs(20)
    async with BatchingScorer(scorer) as scoring:
        found = [(await scoring.scored(question, [text]))[0] for question, text in asked]
    assert found == keeping(model).score_pairs(asked)


def test_an_adapter_is_loaded_with_prefixes_kept_in_bfloat16_too(tmp_path, energy):
    save_adapter(tmp_path / "a", energy("llama"), manifest())
    scorer, _ = load_scorer(tmp_path / "a", prefix_bytes=ROOM)
    assert isinstance(scorer.engine, PrefixEngine)
    assert scorer.score_pairs(pairs(9)) == keeping(energy("llama")).score_pairs(pairs(9))
    scorer, _ = load_scorer(tmp_path / "a", engine="torch_bf16", prefix_bytes=ROOM)
    assert scorer.engine.name in ("torch_bf16", "torch_fp32")


def test_an_exported_engine_scores_a_causal_network_too(tmp_path, energy):
    model = energy("gpt2")
    save_adapter(tmp_path / "a", model, manifest().model_copy(update={"engine": "openvino_fp32"}))
    scorer, _ = load_scorer(tmp_path / "a")
    assert scorer.engine.name in ("openvino_fp32", "torch_fp32")
    asked = pairs(12)
    found = scorer.score_pairs(asked)
    assert found == pytest.approx(model.score_pairs(asked), abs=1e-4)
    assert [scorer.score_pairs([each])[0] for each in asked] == found


def test_an_encoder_is_told_why_it_keeps_no_prefixes(tmp_path, tiny_backbone):
    model = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu")
    save_adapter(tmp_path / "a", model, manifest())
    with pytest.raises(AdapterError, match="bidirectional: a prefix's states hang on what follows"):
        load_scorer(tmp_path / "a", prefix_bytes=ROOM)


def test_so_is_a_network_whose_layers_have_no_keys_and_values(energy):
    model = energy("qwen2")
    before = model.network.config.layer_types
    model.network.config.layer_types = ["full_attention", "linear_attention"]
    try:
        with pytest.raises(AdapterError, match="linear_attention"):
            keeping(model)
    finally:
        model.network.config.layer_types = before


# --------------------------------------------------------------------------- the commands


@pytest.fixture(scope="module")
def blackbox() -> Iterator[str]:
    with running() as url:
        yield url


def trimtab(*args: object) -> Result:
    done = CliRunner().invoke(app, [*map(str, args), "--threads", "1"])
    assert done.exit_code == 0, done.stderr
    return done


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_adapt_and_a_search_with_kept_prefixes_on_a_causal_backbone(tmp_path, folder, blackbox):
    world = [{"id": e.id, "question": e.text, "answer": e.answer} for e in world_questions(7, 9, "heldout")]
    said = [[{"text": f"So it is.\nThe answer is {n}."} for n in (row["answer"], 0)] for row in world]
    rows = [{**row, "samples": samples} for row, samples in zip(world, said, strict=True)]
    learnt, dev = write(tmp_path / "r.jsonl", rows[:6]), write(tmp_path / "d.jsonl", rows[6:])
    box = ("--model", "trimtab-blackbox", "--task", "house", "--base-url", blackbox, "--max-tokens", 96)
    trimtab(
        *("adapt", "--recorded", learnt, "--dev", dev, "--task", "house"),
        *("--backbone", folder("gpt2"), "--max-length", 160, "--epochs", 1),
        *("--out", tmp_path / "adapter", "--work-dir", tmp_path / "work"),
    )
    assert read_manifest(tmp_path / "adapter").backbone == str(folder("gpt2"))
    asked = (
        *("answer", "--adapter", tmp_path / "adapter", "--work-dir", tmp_path / "work", *box),
        *("--questions", write(tmp_path / "q.jsonl", world[:3]), "--search", "beam", "--samples", 3),
    )
    kept, plain = trimtab(*asked, "--prefix-cache", 64), trimtab(*asked)
    answers = [[json.loads(line) for line in done.stdout.splitlines()] for done in (kept, plain)]
    assert [row["text"] for row in answers[0]] == [row["text"] for row in answers[1]]
    assert [row["score"] for row in answers[0]] == pytest.approx(
        [row["score"] for row in answers[1]], abs=1e-4
    )
    found = re.search(r"tokens scored: ([\d,]+) run of ([\d,]+) asked for", kept.stderr)
    assert found is not None
    run, all_asked = (int(number.replace(",", "")) for number in found.groups())
    assert 0 < run < all_asked
    assert "tokens scored" not in plain.stderr
    evaluated = ("evaluate", *asked[1:], "--prefix-cache", 64, "--draws", 2, "--json")
    assert "beam_search" in json.loads(trimtab(*evaluated).stdout)["accuracy"]
