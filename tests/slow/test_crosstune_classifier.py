"""Laws of the estimator on a black box of made-up token states; no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from trimtab.crosstune import (
    CrossTuneClassifier,
    DecTClassifier,
    LabelSimilarity,
    LogisticProbe,
    MemoryFeatures,
    NearestMean,
    Reading,
)
from trimtab.crosstune.views import Item, open_eye, queries, unit
from trimtab.errors import AdapterError, InputError

pytestmark = pytest.mark.slow

WIDTH = 16
DESCRIPTIONS = {"up": ["rise high good", "climb top"], "down": ["fall low bad", "sink bottom"]}
UP = ["rise now", "high the good", "we climb", "top good day", "good rise", "the high top"]
DOWN = ["fall now", "low the bad", "we sink", "bottom bad day", "bad fall", "the low bottom"]
X = [*UP, *DOWN]
Y = ["up"] * 6 + ["down"] * 6


class WordFeatures:
    """Every word has a fixed vector; words of one meaning are alike. Two layers, no special tokens."""

    name = "words"
    layers = (1, 2)
    GROUPS = (["rise", "high", "good", "climb", "top"], ["fall", "low", "bad", "sink", "bottom"])

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __deepcopy__(self, memo):
        return self

    def vector(self, word: str, layer: int) -> np.ndarray:
        rng = np.random.default_rng([layer, *word.encode()])
        own = rng.normal(size=WIDTH)
        for number, group in enumerate(self.GROUPS):
            if word in group:
                own = 0.6 * own
                own[number] += 3
        return own.astype(np.float32)

    def read(self, texts, progress=None):
        self.asked += texts
        return [self.reading(text) for text in texts]

    def reading(self, text: str) -> Reading:
        states = np.stack([[self.vector(word, at) for word in text.split()] for at in self.layers])
        return Reading(states, states[:, 0])


def fitted(**options) -> CrossTuneClassifier:
    return CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures(), **options).fit(X, Y)


def test_it_learns_and_says_probabilities():
    model = fitted()
    unseen = ["a good climb", "a bad sink"]
    assert model.predict(unseen).tolist() == ["up", "down"]
    assert model.predict_proba(unseen).sum(axis=1) == pytest.approx(1)
    assert model.score(unseen, ["up", "down"]) == 1.0


def test_a_word_never_shot_is_understood_by_the_description():
    shots = ["rise now", "high rise", "fall now", "low fall"]
    model = CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures()).fit(
        shots, ["up", "up", "down", "down"]
    )
    assert model.predict(["climb top", "sink bottom"]).tolist() == ["up", "down"]


@pytest.mark.parametrize(
    "options",
    [
        {"views": ["mean"]},
        {"views": ["slot", "largest"]},
        {"mixing": "equal", "objective": "each"},
        {"start": "random", "views": ["mean"], "heads": 4, "width": 8, "ridge": 0.01},
        {"class_weight": "balanced", "calibrate": False},
        {"label_pooling": "largest"},
    ],
)
def test_every_option_learns_the_shots(options):
    assert fitted(**options).score(X, Y) >= 11 / 12


def test_names_alone_can_stand_for_descriptions():
    model = CrossTuneClassifier(label_text="names", features=WordFeatures()).fit(X, Y)
    assert model.score(X, Y) == 1.0


def test_evidence_attends_to_the_tokens_that_are_like_the_class():
    box = WordFeatures()
    items = [Item(box.reading(text)) for text in X]
    descriptions = [[box.reading(each) for each in DESCRIPTIONS[name]] for name in ("down", "up")]
    eye = open_eye("evidence", 0, items, descriptions)
    (found,) = queries(eye, [Item(box.reading("good and so bad"))])
    tokens = unit(box.reading("good and so bad").states[0])
    for at in range(2):
        scores = [np.exp(20 * float(token @ eye.guide[at])) for token in tokens]
        slow = sum(score * token for score, token in zip(scores, tokens, strict=True)) / sum(scores)
        assert found[at] == pytest.approx((slow - eye.centre) / np.linalg.norm(slow - eye.centre), abs=1e-5)


def test_a_single_example_of_a_class_and_imbalance_are_learnt_from():
    model = CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures()).fit(
        [*UP, DOWN[0]], ["up"] * 6 + ["down"]
    )
    assert model.predict(["bad sink", "good top"]).tolist() == ["down", "up"]


def test_a_described_class_without_shots_can_be_predicted():
    more = {**DESCRIPTIONS, "water": ["sea river lake"]}
    model = CrossTuneClassifier(more, features=WordFeatures()).fit(X, Y)
    assert model.classes_.tolist() == ["down", "up", "water"]
    assert model.predict(["sea river lake"]).tolist() == ["water"]


def test_dev_examples_are_held_out_beside_the_folds():
    model = CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures()).fit(X, Y, ["good"], ["up"])
    assert model.trained_.held_out == len(X) + 1


def test_pairs_are_compared_and_not_mixed_with_texts():
    same = [("rise high", "high rise"), ("now we", "we now"), ("bad day", "day bad"), ("so top", "top so")]
    other = [("rise high", "low day"), ("now we", "bad so"), ("bad day", "top sea"), ("so top", "now low")]
    said = {"same": "they agree", "other": "they differ"}
    model = CrossTuneClassifier(said, features=WordFeatures())
    model.fit([*same, *other], ["same"] * 4 + ["other"] * 4)
    assert model.predict([("good now", "now good"), ("good now", "sink lake")]).tolist() == ["same", "other"]
    with pytest.raises(InputError, match="reads pairs"):
        model.predict(["a text"])
    with pytest.raises(InputError, match="all single texts or all pairs"):
        model.fit([*same, "text"], ["same"] * 4 + ["other"])


@pytest.mark.parametrize(
    ("rows", "labels", "said"),
    [
        (X, ["up"] * 12, "two classes"),
        (X, ["up"] * 11 + ["sideways"], "no description of 'sideways'"),
        (["", *X[1:]], Y, "text 1 is empty"),
        ([("a", " "), *X[1:]], Y, "one of the pair is empty"),
        (X, Y[:-1], "one label for each text"),
        (X, [1] * 12, "labels are strings"),
        ([], [], "with at least one"),
        ([3.0, *X[1:]], Y, "neither a text nor a pair"),
    ],
)
def test_bad_input_is_refused_and_named(rows, labels, said):
    with pytest.raises(InputError, match=said):
        CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures()).fit(rows, labels)


def test_an_unseen_label_at_evaluation_is_named():
    with pytest.raises(InputError, match="'sideways' is not among the labels"):
        fitted().score(["good"], ["sideways"])


def test_without_descriptions_it_says_what_to_do():
    with pytest.raises(InputError, match="label_text='names'"):
        CrossTuneClassifier(features=WordFeatures()).fit(X, Y)
    with pytest.raises(InputError, match="description of 'up' is empty"):
        CrossTuneClassifier({**DESCRIPTIONS, "up": [" "]}, features=WordFeatures()).fit(X, Y)


def test_a_text_is_read_once_with_a_store():
    box, store = WordFeatures(), MemoryFeatures()
    model = CrossTuneClassifier(DESCRIPTIONS, features=box, store=store).fit(X, Y)
    model.predict(X)
    assert len(box.asked) == len(set(box.asked))


def test_the_prior_moves_the_mean_probability():
    model = fitted()
    before = model.predict_proba(["now we"])[0, 1]
    after = model.set_params(prior={"up": 0.9, "down": 0.1}).predict_proba(["now we"])[0, 1]
    assert after > before


# --------------------------------------------------------------------------- saving


def test_a_loaded_classifier_says_the_same_bit_for_bit(tmp_path):
    model = fitted()
    model.save(tmp_path / "model")
    again = CrossTuneClassifier.load(tmp_path / "model", features=WordFeatures())
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    assert again.get_params()["descriptions"] == DESCRIPTIONS


def test_a_classifier_may_be_saved_over_another_but_over_nothing_else(tmp_path):
    model = fitted()
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(AdapterError, match="not a classifier's folder"):
        model.save(tmp_path / "mine")


@pytest.mark.parametrize("name", ["crosstune.json", "heads.safetensors"])
def test_a_flipped_byte_is_refused(tmp_path, name):
    fitted().save(tmp_path / "model")
    path = tmp_path / "model" / name
    for at in (5, path.stat().st_size // 2, path.stat().st_size - 3):
        whole = bytearray(path.read_bytes())
        whole[at] ^= 1
        path.write_bytes(whole)
        with pytest.raises(AdapterError, match=name):
            CrossTuneClassifier.load(tmp_path / "model", features=WordFeatures())
        whole[at] ^= 1
        path.write_bytes(whole)


def test_another_black_box_than_the_one_it_was_made_with_is_refused(tmp_path):
    fitted().save(tmp_path / "model")
    other = WordFeatures()
    other.name = "other"
    with pytest.raises(InputError, match="'other' was given"):
        CrossTuneClassifier.load(tmp_path / "model", features=other)
    with pytest.raises(InputError, match="give features"):
        CrossTuneClassifier.load(tmp_path / "model")
    with pytest.raises(AdapterError, match=r"no crosstune\.json"):
        CrossTuneClassifier.load(tmp_path)


# --------------------------------------------------------------------------- scikit-learn


def test_grid_search_pipeline_and_cross_validation_work_with_it():
    model = CrossTuneClassifier(DESCRIPTIONS, features=WordFeatures(), max_steps=5)
    search = GridSearchCV(model, {"ridge": [0.3, 3.0]}, cv=2).fit(X, Y)
    assert search.best_score_ == 1.0
    piped = make_pipeline(FunctionTransformer(lambda rows: [row.lower() for row in rows]), model)
    assert piped.fit([row.upper() for row in X], Y).score([row.upper() for row in X], Y) == 1.0
    assert cross_val_score(model, X, Y, cv=3).mean() == 1.0


def test_a_clone_has_equal_parameters_and_nothing_learnt():
    model = fitted(ridge=2.0)
    copy = clone(model)
    assert copy.get_params()["ridge"] == 2.0
    assert not hasattr(copy, "classes_")


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_mixin_order",
        "check_valid_tag_types",
    ],
)
def test_it_passes_those_checks_of_scikit_learn_that_need_no_numbers(check):
    getattr(estimator_checks, check)("CrossTuneClassifier", CrossTuneClassifier())


# --------------------------------------------------------------------------- baselines


@pytest.mark.parametrize(
    "baseline",
    [
        LabelSimilarity(DESCRIPTIONS, features=WordFeatures()),
        NearestMean(features=WordFeatures(), layers=(0,)),
        LogisticProbe(features=WordFeatures(), layers=(0, 1), views=("mean", "largest")),
        DecTClassifier(DESCRIPTIONS, features=WordFeatures()),
        DecTClassifier(features=WordFeatures(), layers=(0, 1)),
    ],
)
def test_every_baseline_learns_the_shots_and_clones(baseline):
    model = clone(baseline).fit(X, Y)
    assert model.score(X, Y) >= 11 / 12
    assert model.predict_proba(X).sum(axis=1) == pytest.approx(1)


def test_zero_shot_similarity_does_not_look_at_labels():
    straight = LabelSimilarity(DESCRIPTIONS, features=WordFeatures()).fit(X, Y).predict_proba(X)
    swapped = LabelSimilarity(DESCRIPTIONS, features=WordFeatures()).fit(X, Y[::-1]).predict_proba(X)
    assert (straight == swapped).all()


def test_the_probe_takes_the_strength_that_is_best_on_dev():
    box = WordFeatures()
    probe = LogisticProbe(features=box).fit(X, Y, X, Y)
    each = [LogisticProbe(features=box, strengths=(c,)).fit(X, Y, X, Y).dev_merit_ for c in probe.strengths]
    assert probe.dev_merit_ == max(each)
    with pytest.raises(InputError, match="'sideways'"):
        LogisticProbe(features=box).fit(X, Y, ["good"], ["sideways"])


def test_decoder_tunings_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(0)
    model = DecTClassifier(width=3, ridge=0.1)
    model.classes_ = np.array(["a", "b"])
    vectors, labels = rng.normal(size=(5, 4)), np.array([0, 1, 0, 1, 1])
    start = rng.normal(size=4 * 3 + 2 * 3 + 2)
    base = np.zeros((5, 2))

    def part(at):
        return lambda flat: model._loss(flat, start * 0, vectors, labels, base)[at]

    assert check_grad(part(0), part(1), start) < 1e-4


def test_importing_the_package_loads_neither_torch_nor_scikit_learn():
    code = (
        "import sys, json, trimtab.crosstune;"
        "print(json.dumps([name for name in ('torch', 'sklearn', 'transformers') if name in sys.modules]))"
    )
    assert (
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) == []
    )
