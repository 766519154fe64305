"""Laws of the scoring engines on real networks, of choosing one, and of an adapter that carries its files."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau
from transformers import AutoModelForSequenceClassification

from trimtab.cli.doctor import run as doctor
from trimtab.cli.settings import Settings
from trimtab.energy import BatchingScorer, Manifest, load_adapter, load_scorer, save_adapter, verify_adapter
from trimtab.energy.engine_bench import (
    EngineTrial,
    HeldOut,
    bench_engines,
    best_of_n,
    choose_engine,
    fastest_faithful,
    kendall_tau,
)
from trimtab.energy.engines import making
from trimtab.energy.engines.engine import EngineScorer, ScoringEngine
from trimtab.energy.engines.graph import READ_THE_FIRST_TOKEN, FirstTokenLayer, to_the_first_token
from trimtab.energy.engines.making import make_engine, usable, why_not
from trimtab.energy.engines.names import NEEDS, EngineName
from trimtab.energy.model import EnergyModel
from trimtab.errors import AdapterError, ConfigError
from trimtab.types import Scorer

pytestmark = pytest.mark.slow

HERE: list[EngineName] = [name for name in NEEDS if why_not(name) is None]
EXPORTED = [name for name in HERE if NEEDS[name].files]
FP32 = [name for name in HERE if name.endswith("fp32")]
# Least correlation with torch in float32; int8 finds the range of its activations anew in each batch.
CLOSE = {name: 0.9999 if name.endswith("fp32") else 0.99 if name.endswith("bf16") else 0.95 for name in NEEDS}
WORDS = ["red", "blue", "way", "plus", "1", "2", "3", "4"]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def spread(backbone: Path) -> EnergyModel:
    """A tiny model whose weights are large enough that answers differ by more than bfloat16's steps."""
    model = EnergyModel.pretrained(backbone, max_length=48, device="cpu")
    with torch.no_grad():
        for parameter in model.network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    return model


@pytest.fixture(scope="module")
def energy(tiny_backbone) -> EnergyModel:
    """For all tests that leave it as it is."""
    return spread(tiny_backbone)


@pytest.fixture(scope="module")
def engine(energy) -> Callable[[EngineName], ScoringEngine]:
    """Engines on it, made once: an export takes seconds."""
    return cache(partial(make_engine, energy=energy))


@pytest.fixture(scope="module")
def saved(energy, tmp_path_factory) -> Callable[[EngineName], Path]:
    """Adapter folders with an engine's files; not to be written to."""

    def save(name: EngineName) -> Path:
        folder = tmp_path_factory.mktemp("saved") / name
        save_adapter(folder, energy, manifest(engine=name))
        return folder

    return cache(save)


@pytest.fixture
def without_onnx(monkeypatch) -> None:
    """As where ONNX Runtime is not installed, which also spares its exports."""
    for name in ("onnx_fp32", "onnx_int8"):
        monkeypatch.setitem(NEEDS, name, replace(NEEDS[name], packages=("not_installed_here",)))


def pairs(count: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [
        ("what is the " + rng.choice(WORDS), " ".join(rng.choices(WORDS, k=rng.randint(1, 60))))
        for _ in range(count)
    ]


def held_out(questions: int, answers: int = 6) -> list[HeldOut]:
    rng = random.Random(1)
    made = pairs(questions * answers, seed=2)
    return [
        HeldOut(
            f"what is {i}", tuple(text for _, text in made[i::questions]), (rng.random() < 0.5,) * answers
        )
        for i in range(questions)
    ]


def manifest(**facts) -> Manifest:
    return Manifest(task="numeric", backbone="tiny", loss="ranking_nce", max_length=48, **facts)


# --------------------------------------------------------------------------- scores


@pytest.mark.parametrize("name", FP32)
def test_an_engine_in_fp32_scores_as_torch_does(energy, engine, name):
    scorer: Scorer = EngineScorer(energy.encoder, engine(name))
    assert scorer.score_pairs(pairs(40)) == pytest.approx(energy.score_pairs(pairs(40)), abs=1e-4)
    question, text = pairs(1)[0]
    assert scorer.score(question, [text, text]) == scorer.score_pairs([(question, text)]) * 2
    assert scorer.score_pairs([]) == []


@pytest.mark.parametrize("name", HERE)
def test_every_engine_scores_each_pair_in_its_place(energy, engine, name):
    asked = pairs(40)
    scorer = EngineScorer(energy.encoder, engine(name))
    scores = scorer.score_pairs(asked)
    assert np.corrcoef(scores, energy.score_pairs(asked))[0, 1] > CLOSE[name]
    assert np.corrcoef(scores, scorer.score_pairs(asked[::-1])[::-1])[0, 1] > CLOSE[name]


def test_making_an_engine_leaves_the_model_and_the_engine_keeps_its_weights(tiny_backbone):
    energy = spread(tiny_backbone)
    before = energy.score_pairs(pairs(8))
    energy.network.train()
    engines = [make_engine(name, energy) for name in HERE if name != "torch_fp32"]
    assert energy.network.training
    assert {p.dtype for p in energy.network.parameters()} == {torch.float32}
    energy.network.eval()
    assert energy.score_pairs(pairs(8)) == before
    scores = [engine.scores(energy.encode(pairs(4))) for engine in engines]
    with torch.no_grad():
        energy.network.classifier.bias.add_(1.0)
    assert [engine.scores(energy.encode(pairs(4))) for engine in engines] == scores


@pytest.mark.parametrize("name", HERE)
def test_the_batching_scorer_gives_an_engines_own_scores(energy, engine, name):
    scorer = EngineScorer(energy.encoder, engine(name))
    asked = {f"what {i}": [text for _, text in pairs(7, seed=i)] for i in range(6)}

    async def together() -> list[list[float]]:
        async with BatchingScorer(scorer) as scoring:
            return await asyncio.gather(*(scoring.scored(*each) for each in asked.items()))

    alone = [scorer.score(question, texts) for question, texts in asked.items()]
    flat = [[score for row in rows for score in row] for rows in (asyncio.run(together()), alone)]
    assert np.corrcoef(*flat)[0, 1] > CLOSE[name]


@pytest.mark.parametrize("name", HERE)
def test_a_score_is_the_same_bit_for_bit_whoever_shares_its_batches(energy, engine, name):
    scorer = EngineScorer(energy.encoder, engine(name))
    asked = pairs(30)
    together = scorer.score_pairs(asked)
    assert scorer.score_pairs(asked[::-1])[::-1] == together
    assert [scorer.score_pairs([each])[0] for each in asked] == together
    assert [score for at in range(0, 30, 7) for score in scorer.score_pairs(asked[at : at + 7])] == together


@pytest.mark.parametrize("name", [name for name in HERE if name.startswith("openvino")])
def test_nor_does_it_hang_on_how_many_streams_there_are(energy, engine, name):
    two = EngineScorer(energy.encoder, make_engine(name, energy, threads=2))
    assert two.streams == 2
    assert two.score_pairs(pairs(60)) == EngineScorer(energy.encoder, engine(name)).score_pairs(pairs(60))


@pytest.mark.parametrize("family", sorted(READ_THE_FIRST_TOKEN))
def test_what_is_left_out_of_a_last_layer_is_not_missed(family):
    sizes = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 64, "embedding_size": 32}
    kind = getattr(transformers, family)
    config = kind.config_class(
        **sizes, num_attention_heads=4, num_hidden_layers=2, max_position_embeddings=64, num_labels=1
    )
    network = kind(config).eval()
    tokens = torch.randint(5, 99, (3, 12))
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, 7:] = 0
    with torch.no_grad():
        whole = network(input_ids=tokens, attention_mask=mask).logits
        with to_the_first_token(network):
            assert isinstance(network.base_model.encoder.layer[-1], FirstTokenLayer)
            assert torch.allclose(network(input_ids=tokens, attention_mask=mask).logits, whole, atol=1e-6)
        assert torch.equal(network(input_ids=tokens, attention_mask=mask).logits, whole)


def test_a_network_of_another_build_is_left_as_it_is():
    network = torch.nn.Linear(2, 1)
    with to_the_first_token(network):
        assert torch.equal(network(torch.zeros(2)), network.bias)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("head", ["scalar", "mlm"])
def test_a_models_own_scores_are_so_too_and_it_keeps_no_hook(tiny_backbone, head, bf16):
    energy = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu", head=head, bf16=bf16)
    asked = pairs(30)
    assert [energy.score_pairs([each])[0] for each in asked] == energy.score_pairs(asked)
    assert not any(module._forward_pre_hooks for module in energy.network.modules())


# --------------------------------------------------------------------------- ranking alike


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=9))
def test_tau_is_what_counting_pairs_says(scores):
    order = [
        int(np.sign(mine - yours)) * int(np.sign(a - b))
        for (mine, a), (yours, b) in combinations(scores, 2)
        if a != b
    ]
    slow = sum(order) / len(order) if order else 1.0
    assert math.isclose(kendall_tau(*zip(*scores, strict=True)), slow)


def test_tau_is_scipys_where_nothing_is_tied():
    rng = random.Random(0)
    ours, theirs = rng.sample(range(99), 30), rng.sample(range(99), 30)
    assert math.isclose(kendall_tau(ours, theirs), kendalltau(ours, theirs).statistic)


def test_best_of_n_takes_the_first_of_equals():
    questions = [HeldOut("q", ("a", "b"), (True, False)), HeldOut("r", ("a", "b"), (False, True))]
    assert best_of_n([[1.0, 1.0], [0.0, 2.0]], questions) == 1.0
    assert best_of_n([[1.0, 1.0], [2.0, 2.0]], questions) == 0.5


def test_the_fastest_that_ranks_alike_is_chosen():
    trials = [
        EngineTrial("torch_fp32", None, 10.0, 1.0),
        EngineTrial("torch_bf16", None, 20.0, 2.0),
        EngineTrial("openvino_bf16", None, 19.0, 3.0),
        EngineTrial("onnx_int8", "ranks otherwise", 90.0, 9.0),
        EngineTrial("cuda_bf16", "no CUDA device"),
    ]
    assert fastest_faithful(trials).name == "openvino_bf16"
    assert fastest_faithful(trials[:1]).name == "torch_fp32"


def test_an_engine_that_ranks_otherwise_may_not_be_chosen(tiny_backbone, without_onnx):
    drawn = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu")  # scores all but equal
    trials = {trial.name: trial for trial in bench_engines(drawn, held_out(6), repeats=1)}
    assert trials.keys() == NEEDS.keys()
    assert trials["torch_fp32"].reason is None
    for name, trial in trials.items():
        if trial.pairs_per_s and not name.endswith("fp32"):
            assert "ranks otherwise" in (trial.reason or "")
    assert trials["onnx_int8"].reason == why_not("onnx_int8")
    assert trials["onnx_int8"].pairs_per_s == 0


def test_choosing_needs_questions_with_two_answers(energy):
    with pytest.raises(ValueError, match="two answers"):
        bench_engines(energy, [HeldOut("q", ("a",), (True,))])


# --------------------------------------------------------------------------- in the adapter's folder


@pytest.fixture
def folder(tmp_path, energy) -> Path:
    save_adapter(tmp_path / "adapter", energy, manifest())
    return tmp_path / "adapter"


def test_the_choice_is_written_and_used_and_the_weights_stay(folder, without_onnx):
    (folder / "report.html").write_text("mine")
    before = verify_adapter(folder)
    chosen, trials = choose_engine(folder, held_out(6), repeats=1)
    after = verify_adapter(folder)
    assert (after.engine, after.weights_sha256) == (chosen, before.weights_sha256)
    assert after.created == before.created
    assert after.engine_trials.keys() == {trial.name for trial in trials}
    assert set(NEEDS[chosen].files) <= after.files.keys()
    assert (folder / "report.html").read_text() == "mine"
    scorer, _ = load_scorer(folder)
    assert scorer.engine.name == chosen
    AutoModelForSequenceClassification.from_pretrained(folder)


@pytest.mark.parametrize("name", EXPORTED)
def test_saving_writes_the_engines_files_and_loading_reads_them(energy, engine, saved, name):
    scorer, read = load_scorer(saved(name))
    assert read.engine == name
    assert set(NEEDS[name].files) <= read.files.keys()
    assert scorer.score_pairs(pairs(20)) == EngineScorer(energy.encoder, engine(name)).score_pairs(pairs(20))


@pytest.mark.parametrize("name", EXPORTED)
def test_a_flipped_byte_in_an_engines_file_is_refused(tmp_path, saved, name):
    shutil.copytree(saved(name), tmp_path / "a")
    for file in NEEDS[name].files:
        path = tmp_path / "a" / file
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        with pytest.raises(AdapterError, match=file):
            load_scorer(tmp_path / "a")
        path.write_bytes(whole)
    load_scorer(tmp_path / "a")


def test_files_of_an_engine_no_longer_chosen_are_gone(tmp_path, energy, saved):
    shutil.copytree(saved(EXPORTED[0]), tmp_path / "a")
    save_adapter(tmp_path / "a", energy, manifest())
    assert not list((tmp_path / "a").glob("engine-*"))
    load_scorer(tmp_path / "a")


@pytest.mark.parametrize("name", HERE)
def test_an_engine_may_be_named_whose_files_the_adapter_has_not(folder, energy, name):
    before = sorted(path.name for path in folder.iterdir())
    scorer, _ = load_scorer(folder, engine=name)
    assert scorer.engine.name == name
    assert np.corrcoef(scorer.score_pairs(pairs(20)), energy.score_pairs(pairs(20)))[0, 1] > CLOSE[name]
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_engine_that_is_missing_is_stood_in_for_with_one_line(folder, energy, monkeypatch, caplog):
    needs = {name: replace(each, packages=("not_installed_here",)) for name, each in NEEDS.items()}
    monkeypatch.setitem(NEEDS, "openvino_fp32", needs["openvino_fp32"])
    monkeypatch.setitem(NEEDS, "openvino_bf16", needs["openvino_bf16"])
    save_adapter(folder, energy, manifest(engine="openvino_bf16"))  # saved all the same
    caplog.clear()
    with caplog.at_level(logging.WARNING, "trimtab.energy"):
        scorer, read = load_scorer(folder)
    assert scorer.engine.name == ("torch_bf16" if "torch_bf16" in HERE else "torch_fp32")
    assert read.engine == "openvino_bf16"
    assert [record.getMessage() for record in caplog.records] == [
        f"scoring with {scorer.engine.name} instead of openvino_bf16: "
        "not_installed_here is not installed: pip install 'trimtab[openvino]'"
    ]
    assert usable("openvino_fp32") == "torch_fp32"


def test_bfloat16_is_not_used_where_the_processor_lacks_it(folder, monkeypatch):
    monkeypatch.setattr(making, "can_bf16", lambda device=None: False)
    scorer, _ = load_scorer(folder, engine="torch_bf16")
    assert scorer.engine.name == "torch_fp32"


def test_a_fresh_process_scores_alike(saved):
    program = (
        "import json, sys; from trimtab.energy import load_scorer\n"
        "asked = [tuple(each) for each in json.loads(sys.argv[2])]\n"
        "print(json.dumps(load_scorer(sys.argv[1])[0].score_pairs(asked)))"
    )
    folder = saved(EXPORTED[0])
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), json.dumps(pairs(6))],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == load_scorer(folder)[0].score_pairs(pairs(6))


# --------------------------------------------------------------------------- the command


def test_doctor_measures_the_engines_and_sets_the_default(folder, tmp_path, capsys, without_onnx):
    settings = Settings(adapter=folder, work_dir=tmp_path / "w")
    assert doctor(settings, as_json=True, bench=True) == 0
    found = {each["subject"]: each for each in json.loads(capsys.readouterr().out)}
    assert {f"engine {name}" for name in NEEDS} <= found.keys()
    assert found["engine torch_fp32"]["is_fine"]
    assert "texts/s" in found["engine torch_fp32"]["detail"]
    assert found["engines"]["detail"].endswith(f"scores with {verify_adapter(folder).engine} from now on")


def test_an_adapter_with_an_engine_is_still_one_to_train_on(energy, saved):
    again, read = load_adapter(saved(EXPORTED[0]))
    assert read.engine == EXPORTED[0]
    assert again.score_pairs(pairs(6)) == energy.score_pairs(pairs(6))


def test_doctor_needs_an_adapter_to_measure_on(tmp_path):
    with pytest.raises(ConfigError, match="--adapter"):
        doctor(Settings(work_dir=tmp_path), as_json=True, bench=True)


def test_doctor_compares_on_recorded_answers_where_they_are_given(folder, tmp_path, capsys, without_onnx):
    rows = [
        {
            "id": f"q{i}",
            "question": question,
            "answer": "3",
            "samples": [{"text": f"{text} #### {n}"} for n in (3, 4, 5)],
        }
        for i, (question, text) in enumerate(pairs(5))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = Settings(adapter=folder, work_dir=tmp_path / "w", recorded=file, task="gsm8k")
    assert doctor(settings, as_json=True, bench=True) == 0
    figures = verify_adapter(folder).engine_trials["torch_fp32"]
    assert figures["accuracy"] in [k / 5 for k in range(6)]
    assert "best of n" in capsys.readouterr().out


def test_openvino_is_imported_without_its_telemetry():
    pytest.importorskip("openvino")
    used = "openvino.tools.ovc.telemetry_utils"
    code = f"import trimtab.energy.engines.openvino, {used} as used; print(used.tm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
