"""Laws of the energy model on real networks: tiny ones made here, and the embedded MiniLM."""

from __future__ import annotations

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from trimtab.energy.adapter import load_adapter, save_adapter
from trimtab.energy.backbone import check_weights
from trimtab.energy.encoding import by_length, without_middle
from trimtab.energy.fit import fit, learning_rate, padded
from trimtab.energy.fitting import FitSettings
from trimtab.energy.held_out import held_out_evaluation
from trimtab.energy.manifest import MANIFEST_NAME, Manifest, read_manifest
from trimtab.energy.model import EnergyModel, evaluating
from trimtab.energy.nce import ranking_nce
from trimtab.energy.parameters import quick_attention
from trimtab.energy.placing import _swap_in_two_moves
from trimtab.errors import AdapterError, MissingExtraError, RunError
from trimtab.types import Contrast, PrefixTarget, Scorer

pytestmark = pytest.mark.slow

WORDS = ["red", "blue", "green", "two", "three", "is", "the", "answer", "colour", "what", "yes", "no", "step"]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 80,
}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
EXACT = FitSettings(lr=2e-3, epochs=3, batch_groups=2, accumulation=2, bf16=False, checkpoint_every_s=0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def save_backbone(folder: Path, kind: str) -> Path:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {word: i for i, word in enumerate([*specials, *WORDS])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    middle = "[SEP] [SEP]" if kind == "roberta" else "[SEP]"
    second = "0" if kind == "roberta" else "1"
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair=f"[CLS] $A {middle} $B:{second} [SEP]:{second}",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
        model_input_names=names if kind == "roberta" else [*names, "token_type_ids"],
    ).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"vocab_size": len(vocabulary), "pad_token_id": 0, **SMALL}
    made = {
        "bert": lambda: BertModel(BertConfig(**size)),
        "bert_mlm": lambda: BertForMaskedLM(BertConfig(**size)),
        "roberta": lambda: RobertaModel(RobertaConfig(**size, type_vocab_size=1)),
        "deberta": lambda: DebertaV2Model(DebertaV2Config(**size, type_vocab_size=2)),
    }
    made[kind]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("bert"), "bert")


def tiny(folder: Path, **settings) -> EnergyModel:
    return EnergyModel.pretrained(folder, max_length=48, device="cpu", **settings)


def coloured(count: int, seed: int = 0) -> list[Contrast]:
    """Questions whose right answers name a colour and whose wrong ones name a number."""
    rng = random.Random(seed)

    def answer(words: tuple[str, ...]) -> str:
        return " ".join(["step"] * rng.randint(0, 6) + ["the", "answer", "is", rng.choice(words)])

    return [
        Contrast(
            f"q{i}",
            "what is the colour " * rng.randint(1, 3),
            tuple(answer(("red", "blue", "green")) for _ in range(rng.randint(1, 3))),
            tuple(answer(("two", "three")) for _ in range(rng.randint(1, 4))),
        )
        for i in range(count)
    ]


def weights(energy: EnergyModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in energy.network.named_parameters()}


def is_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def manifest(**changes) -> Manifest:
    given = {"task": "exact", "backbone": "x", "loss": "ranking_nce", "max_length": 32, **changes}
    return Manifest(**given)


# ------------------------------------------------------------------------------- encoding


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_a_pair_that_fits_is_encoded_as_the_tokenizer_itself_would(tmp_path, kind):
    energy = tiny(save_backbone(tmp_path, kind))
    own = energy.tokenizer("what is the colour", "the answer is red")
    pair = energy.encoder.encode([("what is the colour", "the answer is red")])[0]
    assert list(pair.ids) == own["input_ids"]
    text = energy.tokenizer.convert_ids_to_tokens(pair.ids[pair.text_start : pair.text_end])
    assert text == ["the", "answer", "is", "red"]
    if "token_type_ids" in own:
        assert list(pair.types) == own["token_type_ids"]


def test_a_long_pair_keeps_the_question_and_the_ends_of_the_text(bert):
    energy = tiny(bert)
    pair = energy.encoder.encode([("what colour", "yes " + "step " * 100 + "answer is red")])[0]
    words = energy.tokenizer.convert_ids_to_tokens(pair.ids)
    assert len(words) == 48
    assert words[1:3] == ["what", "colour"]
    assert words[4] == "yes"
    assert words[-4:] == ["answer", "is", "red", "[SEP]"]


def test_a_long_question_leaves_half_the_room_to_the_text(bert):
    energy = tiny(bert)
    long = energy.encoder.encode([("what " * 100 + "colour", "step " * 99 + "red"), ("what " * 100, "red")])
    assert [len(pair.ids) for pair in long] == [48, 48]
    assert long[0].text_end - long[0].text_start == 23
    assert long[1].text_end - long[1].text_start == 1


def test_cutting_the_middle_keeps_exactly_the_room():
    for length in range(12):
        for room in range(1, 12):
            kept = without_middle(list(range(length)), room)
            assert len(kept) == min(length, room)
            assert kept == sorted(set(kept))
            assert not length or kept[-1] == length - 1


def test_batches_of_like_length_hold_every_pair_once_within_the_budget(bert):
    encoded = tiny(bert).encoder.encode([("what", "step " * n) for n in (3, 30, 7, 1, 30, 0, 12)])
    batches = list(by_length(encoded, 64))
    assert sorted(i for batch in batches for i in batch) == list(range(7))
    assert all(
        len(batch) == 1 or len(batch) * max(len(encoded[i].ids) for i in batch) <= 64 for batch in batches
    )


# ------------------------------------------------------------------------------- scoring


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_a_score_does_not_depend_on_what_else_is_scored(tmp_path, kind):
    energy = tiny(save_backbone(tmp_path, kind))
    scorer: Scorer = energy
    assert scorer.score("what", ["red"]) == energy.score_pairs([("what", "red")])
    pairs = [("what is the colour", "step " * n + "red") for n in (0, 5, 20, 5, 60)]
    together = energy.score_pairs(pairs)
    alone = [energy.score(question, [text])[0] for question, text in pairs]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[1] == together[3]
    assert energy.score_pairs(pairs) == together
    assert energy.score_pairs([]) == []


def test_scoring_is_without_dropout_even_in_the_midst_of_training(bert):
    energy = tiny(bert)
    before = energy.score("what", ["red", "two"])
    energy.network.train()
    assert energy.score("what", ["red", "two"]) == before
    assert energy.network.training


def test_the_head_is_drawn_by_the_seed_and_the_callers_generator_is_left_alone(bert):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = tiny(bert, seed=1).score("what", ["red"])
    assert torch.equal(torch.rand(1), expected)
    assert tiny(bert, seed=1).score("what", ["red"]) == first
    assert tiny(bert, seed=2).score("what", ["red"]) != first


def test_a_backbone_longer_than_it_reads_is_refused(bert):
    with pytest.raises(AdapterError, match="at most 64 tokens"):
        EnergyModel.pretrained(bert, max_length=65)


@pytest.mark.parametrize("name", ["no-such-org/no-such-encoder", "no such name at all!", "no/such/folder"])
def test_a_backbone_that_is_nowhere_is_one_paragraph_and_prompt(name):
    program = f"from trimtab.energy import EnergyModel; EnergyModel.pretrained({name!r})"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ONE_THREAD)
    assert time.monotonic() - started < 30
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("trimtab.errors.AdapterError: the backbone")
    assert name in message
    assert "'offline'" in message


def test_a_folder_that_is_no_encoder_is_refused(tmp_path, bert):
    with pytest.raises(AdapterError, match=r"config\.json and weights"):
        EnergyModel.pretrained(tmp_path)
    for path in bert.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(AdapterError, match="cannot be read as an encoder"):
        EnergyModel.pretrained(tmp_path, max_length=32)


def test_weights_with_another_hash_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterError, match="SHA-256"):
        check_weights(tmp_path / "model.safetensors", "0" * 64)
    with pytest.raises(AdapterError, match="missing"):
        check_weights(tmp_path / "nothing", "0" * 64)


def test_the_offline_backbone_needs_its_extra():
    # the package stands beside the others here, so the finder itself is told not to see it
    program = (
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name.startswith('gt_all') else real(name, *a)\n"
        "from trimtab.energy import EnergyModel; EnergyModel.pretrained('offline')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ONE_THREAD)
    assert MissingExtraError.__name__ in done.stderr
    assert "trimtab[offline]" in done.stderr


# ------------------------------------------------------------------------------- fit


@pytest.mark.parametrize("loss", ["ranking_nce", "pooled", "bce", "bradley_terry"])
def test_every_loss_learns_to_tell_right_from_wrong(bert, loss):
    energy = tiny(bert)
    before = held_out_evaluation(energy, coloured(20, seed=9))
    told = []
    settings = replace(EXACT, loss=loss, epochs=6, patience=9)
    report = fit(energy, coloured(24), settings, progress=told.append, held_out=coloured(8, 5))
    after = held_out_evaluation(energy, coloured(20, seed=9))
    assert before.best_of_n < 0.9
    assert after.best_of_n == 1.0
    assert after.pairwise > 0.99
    assert [p.step for p in told] == list(range(1, report.steps + 1))
    assert all(p.steps == report.planned_steps == 36 and p.eta_s >= 0 for p in told)
    assert not energy.network.training


def test_mlm_learns_what_good_answers_say_and_is_kept_in_a_folder(tmp_path):
    energy = tiny(save_backbone(tmp_path / "backbone", "bert_mlm"), head="mlm")
    before = held_out_evaluation(energy, coloured(20, seed=9)).pairwise
    fit(energy, coloured(24), replace(EXACT, loss="mlm", epochs=30, lr=5e-3))
    assert held_out_evaluation(energy, coloured(20, seed=9)).pairwise > max(0.75, before + 0.1)
    scores = energy.score("what is the colour", ["the answer is red", "the answer is two", ""])
    assert scores[1] < scores[0] < 0.0
    assert scores[2] == 0.0
    save_adapter(tmp_path / "adapter", energy, manifest(loss="mlm"))
    again, saved = load_adapter(tmp_path / "adapter")
    assert saved.head == "mlm"
    assert again.score("what is the colour", ["the answer is red", "the answer is two", ""]) == scores


def test_the_mlm_score_is_the_mean_log_probability_with_each_token_masked_once(tmp_path):
    energy = tiny(save_backbone(tmp_path, "bert_mlm"), head="mlm")
    pair = energy.encoder.encode([("what", "the answer is red step step blue no")])[0]
    places = list(range(pair.text_start, pair.text_end))
    total = 0.0
    for fold in range(6):
        masked = [at for at in places if (at - pair.text_start) % 6 == fold]
        ids = torch.tensor(
            [[energy.tokenizer.mask_token_id if i in masked else t for i, t in enumerate(pair.ids)]]
        )
        with torch.no_grad():
            logits = energy.network(input_ids=ids, token_type_ids=torch.tensor([pair.types])).logits[0]
        total += sum(float(logits[at].log_softmax(-1)[pair.ids[at]]) for at in masked)
    found = energy.score("what", ["the answer is red step step blue no", "no"])[0]
    assert found == pytest.approx(total / len(places), abs=1e-5)


def test_prefixes_are_learnt_as_the_share_of_good_endings(bert):
    energy = tiny(bert)
    prefixes = [
        PrefixTarget(f"q{i}", "what is the colour", text, value, 4)
        for i in range(10)
        for text, value in (("step yes", 0.9), ("step no", 0.2))
    ]
    fit(energy, coloured(10), replace(EXACT, epochs=40, alpha=0.0), prefixes=prefixes)
    found = torch.sigmoid(torch.tensor(energy.score("what is the colour", ["step yes", "step no"])))
    assert found.tolist() == pytest.approx([0.9, 0.2], abs=0.12)


def test_accumulated_passes_make_the_update_of_one_large_batch(bert):
    contrasts = coloured(4)
    whole = replace(EXACT, epochs=1, batch_groups=4, accumulation=1, alpha=0.1)
    networks = []
    for settings in (whole, replace(whole, batch_groups=2, accumulation=2)):
        energy = tiny(bert)
        for module in energy.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        fit(energy, contrasts, settings)
        networks.append(weights(energy))
    for name, tensor in networks[0].items():
        assert torch.allclose(tensor, networks[1][name], atol=2e-5), name


def test_the_padded_scores_of_a_batch_are_the_scores_question_by_question():
    contrasts = coloured(5)
    sizes = [len(c.positives) + len(c.negatives) for c in contrasts]
    flat = torch.randn(sum(sizes) + 3, dtype=torch.float64)
    matrix, is_positive, is_negative = padded(flat, contrasts)
    start = 0
    for row, (contrast, size) in enumerate(zip(contrasts, sizes, strict=True)):
        split = start + len(contrast.positives)
        assert torch.equal(matrix[row][is_positive[row]], flat[start:split])
        assert torch.equal(matrix[row][is_negative[row]], flat[split : start + size])
        start += size


def test_a_held_out_evaluation_is_what_the_scores_say(bert):
    energy, contrasts = tiny(bert), coloured(6)
    losses, pairs, best = [], [], []
    for c in contrasts:
        right, wrong = energy.score(c.question, c.positives), energy.score(c.question, c.negatives)
        losses.append(ranking_nce(torch.tensor(right), torch.tensor(wrong)).item())
        order = [1.0 if p > n else 0.5 if p == n else 0.0 for p in right for n in wrong]
        pairs.append(sum(order) / len(order))
        best.append(1.0 if max(right) > max(wrong) else 0.5 if max(right) == max(wrong) else 0.0)
    found = held_out_evaluation(energy, contrasts)
    assert found.ranking_loss == pytest.approx(sum(losses) / 6, abs=1e-5)
    assert found.pairwise == pytest.approx(sum(pairs) / 6)
    assert found.best_of_n == pytest.approx(sum(best) / 6)


def test_a_fit_never_leaves_the_model_worse_on_held_out_questions(bert):
    energy = tiny(bert)
    held_out = coloured(6, seed=3)
    upside_down = [replace(c, positives=c.negatives, negatives=c.positives) for c in coloured(12)]
    before = held_out_evaluation(energy, held_out).pairwise
    report = fit(energy, upside_down, replace(EXACT, epochs=8, patience=2), held_out=held_out)
    assert held_out_evaluation(energy, held_out, bf16=False).pairwise >= before
    assert report.best.pairwise == max(e.pairwise for e in report.history)
    assert report.steps < report.planned_steps


def test_recomputing_activations_trains_the_same_weights_to_the_last_bit(bert):
    trained, passes = [], Counter()
    for recompute in (False, True):
        energy = tiny(bert)
        lowest = energy.network.base_model.encoder.layer[0].attention.self
        lowest.register_forward_hook(lambda *_, at=recompute: passes.update([at]))
        fit(energy, coloured(4), replace(EXACT, epochs=1, recompute=recompute))
        assert not any(getattr(each, "gradient_checkpointing", False) for each in energy.network.modules())
        trained.append(weights(energy))
    assert passes[True] == 2 * passes[False]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_frozen_layers_and_embeddings_stay_as_they_are(bert):
    energy = tiny(bert)
    before = weights(energy)
    fit(energy, coloured(4), replace(EXACT, epochs=1, frozen_layers=1))
    changed = {name for name, tensor in weights(energy).items() if not torch.equal(tensor, before[name])}
    assert not any("embeddings" in name or "layer.0." in name for name in changed)
    assert any("layer.1." in name for name in changed)
    assert all(p.requires_grad for p in energy.network.parameters())


@pytest.mark.parametrize("kind", ["roberta", "deberta"])
def test_other_encoders_freeze_and_learn_the_same_way(tmp_path, kind):
    energy = tiny(save_backbone(tmp_path, kind))
    report = fit(energy, coloured(4), replace(EXACT, epochs=1, frozen_layers=1))
    assert report.steps == 1
    assert math.isfinite(report.training_loss)


def test_what_cannot_be_fitted_is_refused(bert):
    energy = tiny(bert)
    with pytest.raises(ValueError, match="at least one contrast"):
        fit(energy, [])
    with pytest.raises(ValueError, match="positives and negatives"):
        fit(energy, [Contrast("q", "what", (), ("no",))])
    with pytest.raises(ValueError, match="head"):
        fit(energy, coloured(1), FitSettings(loss="mlm"))
    with pytest.raises(ValueError, match="has 2 layers"):
        fit(energy, coloured(1), FitSettings(frozen_layers=3))


def test_a_loss_that_is_no_number_ends_the_run(bert):
    energy = tiny(bert)
    with torch.no_grad():
        energy.network.classifier.weight.fill_(float("nan"))
    with pytest.raises(RunError, match="lower learning rate"):
        fit(energy, coloured(2), EXACT)


def test_the_rate_rises_over_the_warm_up_then_falls_to_the_end():
    settings = FitSettings(lr=1.0, warmup=0.2)
    rates = [learning_rate(settings, step, 10) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([1.0 - i / 8 for i in range(8)])


# ------------------------------------------------------------------------------- resuming


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("stop_at", [1, 3, 6, 8])
def test_a_fit_broken_off_anywhere_ends_in_the_weights_of_an_unbroken_one(bert, tmp_path, stop_at):
    contrasts, held_out = coloured(11), coloured(4, seed=4)
    prefixes = [PrefixTarget(f"q{i}", "what", "step yes", 0.3) for i in range(5)]
    unbroken = tiny(bert)
    whole = fit(unbroken, contrasts, EXACT, prefixes=prefixes, held_out=held_out)

    def kill(progress) -> None:
        if progress.step == stop_at:
            raise KilledError

    with pytest.raises(KilledError):
        fit(
            tiny(bert),
            contrasts,
            EXACT,
            prefixes=prefixes,
            held_out=held_out,
            checkpoint_dir=tmp_path,
            progress=kill,
        )
    resumed = tiny(bert)
    report = fit(resumed, contrasts, EXACT, prefixes=prefixes, held_out=held_out, checkpoint_dir=tmp_path)
    assert report.resumed_from == stop_at
    assert is_same(weights(resumed), weights(unbroken))
    assert replace(report, seconds=0.0, resumed_from=0) == replace(whole, seconds=0.0)
    again = tiny(bert)
    assert fit(again, contrasts, EXACT, prefixes=prefixes, held_out=held_out, checkpoint_dir=tmp_path).steps
    assert is_same(weights(again), weights(unbroken))


def test_a_checkpoint_of_another_fit_is_not_used(bert, tmp_path):
    fit(tiny(bert), coloured(4), EXACT, checkpoint_dir=tmp_path)
    for contrasts, settings, seed in (
        (coloured(4), replace(EXACT, lr=1e-3), 0),
        (coloured(5), EXACT, 0),
        (coloured(4), EXACT, 1),
    ):
        report = fit(tiny(bert, seed=seed), contrasts, settings, checkpoint_dir=tmp_path)
        assert report.resumed_from == 0


def test_a_damaged_checkpoint_means_starting_over(bert, tmp_path):
    fit(tiny(bert), coloured(4), EXACT, checkpoint_dir=tmp_path)
    next(tmp_path.glob("step-*/state.safetensors")).write_bytes(b"broken")
    assert fit(tiny(bert), coloured(4), EXACT, checkpoint_dir=tmp_path).resumed_from == 0


def test_after_kill_9_the_final_weights_are_those_of_an_unbroken_run(bert, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([asdict(c) for c in coloured(40)]))
    (tmp_path / "settings.json").write_text(json.dumps(asdict(replace(EXACT, epochs=4))))
    program = textwrap.dedent(
        """
        import json, sys, torch
        from pathlib import Path
        from trimtab.energy.fit import fit
        from trimtab.energy.fitting import FitSettings
        from trimtab.energy.model import EnergyModel
        from trimtab.types import Contrast
        torch.set_num_threads(1)
        here, backbone, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
        rows = json.loads((here / "data.json").read_text())
        contrasts = [Contrast(r["question_id"], r["question"], tuple(r["positives"]), tuple(r["negatives"]))
                     for r in rows]
        settings = FitSettings(**json.loads((here / "settings.json").read_text()))
        energy = EnergyModel.pretrained(backbone, max_length=48, device="cpu")
        tell = lambda p: print(p.step, flush=True)
        report = fit(energy, contrasts, settings, checkpoint_dir=here / name, progress=tell)
        print("resumed", report.resumed_from)
        print("scores", [s.hex() for s in energy.score("what", ["red", "the answer is two", "step no"])])
        """
    )

    def command(name: str) -> list[str]:
        return [sys.executable, "-c", program, str(tmp_path), str(bert), name]

    whole = subprocess.run(
        command("whole"), capture_output=True, text=True, check=True, env=ONE_THREAD
    ).stdout
    broken = subprocess.Popen(command("broken"), stdout=subprocess.PIPE, text=True, env=ONE_THREAD)
    for line in broken.stdout:
        if int(line) >= 13:
            broken.send_signal(signal.SIGKILL)
            break
    broken.wait()
    broken.stdout.close()
    resumed = subprocess.run(
        command("broken"), capture_output=True, text=True, check=True, env=ONE_THREAD
    ).stdout
    assert int(re.search(r"resumed (\d+)", resumed)[1]) >= 12
    assert "resumed 0" in whole
    assert resumed.splitlines()[-1] == whole.splitlines()[-1]


# ------------------------------------------------------------------------------- the adapter's folder


PAIRS = [("what is the colour", "step " * n + word) for n in (0, 3, 50) for word in ("red", "two")]


@pytest.mark.parametrize("kind", ["bert", "roberta", "deberta"])
def test_a_saved_model_scores_bit_for_bit_as_before_also_through_transformers(tmp_path, kind):
    energy = tiny(save_backbone(tmp_path / "backbone", kind))
    fit(energy, coloured(4), replace(EXACT, epochs=1))
    before = energy.score_pairs(PAIRS)
    saved = save_adapter(tmp_path / "adapter", energy, manifest())
    again, read = load_adapter(tmp_path / "adapter")
    assert again.score_pairs(PAIRS) == before
    assert read == saved
    assert read.max_length == again.max_length == 48
    assert again.backbone == str(tmp_path / "backbone")
    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        plain = network(**tokenizer(*PAIRS[0], return_tensors="pt")).logits[0, 0].item()
    assert plain == pytest.approx(before[0], abs=1e-5)


def test_every_saved_file_is_watched_and_nothing_is_pickled(tmp_path, bert):
    saved = save_adapter(tmp_path / "adapter", tiny(bert), manifest())
    names = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert names == {*saved.files, MANIFEST_NAME}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    for name in saved.files:
        path = tmp_path / "adapter" / name
        content = path.read_bytes()
        path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        with pytest.raises(AdapterError, match=re.escape(name)):
            load_adapter(tmp_path / "adapter")
        path.write_bytes(content)


def test_an_adapter_replaces_another_and_leaves_the_users_files(tmp_path, bert):
    folder = tmp_path / "adapter"
    first = save_adapter(folder, tiny(bert, seed=1), manifest())
    (folder / "report.html").write_text("<p>kept")
    second = save_adapter(folder, tiny(bert, seed=2), manifest(parent=first.weights_sha256))
    assert load_adapter(folder)[1] == second
    assert second.weights_sha256 != first.weights_sha256 == second.parent
    assert (folder / "report.html").read_text() == "<p>kept"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_where_names_cannot_be_exchanged_two_moves_do(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    _swap_in_two_moves(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_of_other_things_is_never_replaced(tmp_path, bert):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(AdapterError, match="not an adapter folder"):
        save_adapter(tmp_path, tiny(bert), manifest())
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_the_old_adapter_and_no_litter(tmp_path, bert):
    folder = tmp_path / "adapter"
    saved = save_adapter(folder, tiny(bert), manifest())
    broken = tiny(bert)
    broken.tokenizer = None
    with pytest.raises(AttributeError):
        save_adapter(folder, broken, manifest())
    assert read_manifest(folder) == saved
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


# ------------------------------------------------------------------------------- the embedded MiniLM


def test_the_embedded_minilm_loads_learns_and_fits_in_memory_without_another_library(tmp_path):
    program = textwrap.dedent(
        """
        import resource, sys, torch
        from pathlib import Path
        from trimtab.energy.fit import fit
        from trimtab.energy.fitting import FitSettings
        from trimtab.energy.model import EnergyModel
        from trimtab.energy.adapter import load_adapter, save_adapter
        from trimtab.energy.manifest import Manifest
        from trimtab.types import Contrast
        torch.set_num_threads(1)
        energy = EnergyModel.pretrained("offline")
        long = "The train leaves at nine and arrives at noon, so the trip takes three hours. " * 40
        side = lambda word, n: tuple(f"{long} {i} {word}" for i in range(n))
        ask = "How long is trip {}?"
        contrasts = [Contrast(str(i), ask.format(i), side("right", 4), side("wrong", 8)) for i in range(8)]
        fit(energy, contrasts, FitSettings(epochs=1, checkpoint_every_s=0), held_out=contrasts[:1],
            checkpoint_dir=Path(sys.argv[1]) / "checkpoint")
        before = energy.score("How long?", ["It is right", long])
        manifest = Manifest(task="exact", backbone="offline", loss="ranking_nce", max_length=256)
        save_adapter(sys.argv[1] + "/adapter", energy, manifest)
        assert load_adapter(sys.argv[1] + "/adapter")[0].score("How long?", ["It is right", long]) == before
        assert "sentence_transformers" not in sys.modules
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
        """
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.5  # GiB, at the defaults, every answer at full length


@pytest.mark.slow
def test_attention_as_plain_products_gives_the_same_gradients_and_is_put_back(bert):
    energy = tiny(bert)
    batch = energy.encoder.encode([("a b", "c d e"), ("a b", "c"), ("f", "g h a b")])

    def gradients() -> list[torch.Tensor]:
        energy.network.zero_grad()
        with torch.random.fork_rng(), evaluating(energy.network):
            energy.forward(batch).square().sum().backward()
        return [p.grad.clone() for p in energy.network.parameters() if p.grad is not None]

    fused = gradients()
    with quick_attention(energy.network):
        assert energy.network.config._attn_implementation == "eager"
        plain = gradients()
    assert energy.network.config._attn_implementation == "sdpa"
    assert len(fused) == len(plain)
    for one, other in zip(fused, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
