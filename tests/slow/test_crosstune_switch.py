"""Laws of the switch: the teacher's filter against the slow way, and when augmentation is on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab.cli.app import main
from trimtab.crosstune import CrossTuneClassifier
from trimtab.crosstune.readings import Reading
from trimtab.crosstune.switch import (
    Augmentation,
    filtered,
    label_posterior,
    switch,
    wrong_share,
)
from trimtab.crosstune.training import FINAL, HeldOut, Trained
from trimtab.errors import InputError

pytestmark = pytest.mark.slow

CLASSES = 3
NAMES = ["a", "b", "c"]

# --------------------------------------------------------------------------- the filter


@given(st.lists(st.floats(0.001, 0.999), min_size=1, max_size=40), st.integers(2, 14))
def test_the_share_of_wrong_labels_is_the_likeliest_of_a_fine_grid(said, classes):
    found = np.array(said)

    def likelihood(wrong):
        other = (1 - found) / (classes - 1)
        labels = sum(np.log((1 - wrong) * p + wrong * q) for p, q in zip(found, other, strict=True))
        return labels + np.log(wrong) + np.log(1 - wrong)

    best = max(likelihood(wrong) for wrong in np.linspace(0.002, 0.998, 250))
    assert likelihood(wrong_share(found, classes)) >= best - 1e-9


@given(st.floats(0.01, 0.99), st.integers(2, 14), st.floats(0, 0.99))
def test_how_sure_a_label_is_is_bayes_written_out(said, classes, wrong):
    told_if_right = said * (1 - wrong)
    told_if_wrong = (1 - said) / (classes - 1) * wrong
    assert label_posterior(np.array([said]), classes, wrong)[0] == pytest.approx(
        told_if_right / (told_if_right + told_if_wrong)
    )


def drawn(share: float, classes: int, count: int = 4000, seed: int = 0):
    """A calibrated teacher, the true classes, and labels of which a share is wrong."""
    rng = np.random.default_rng(seed)
    teacher = rng.dirichlet(np.full(classes, 0.3), size=count)
    truth = np.array([rng.choice(classes, p=row) for row in teacher])
    moved = (truth + rng.integers(1, classes, size=count)) % classes
    return teacher, truth, np.where(rng.random(count) < share, moved, truth)


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_a_calibrated_teacher_finds_how_many_labels_are_wrong_and_keeps_right_ones(share, classes):
    teacher, truth, labels = drawn(share, classes)
    found = filtered(teacher, labels)
    assert found.wrong_share == pytest.approx(share, abs=0.03)
    right = truth == labels
    assert right[found.kept].mean() >= 0.9
    assert len(found.kept) >= 0.4 * right.sum()


def test_where_no_label_is_wrong_all_are_kept_those_that_the_teacher_gets_wrong_too():
    teacher, _, labels = drawn(0.0, 4)
    found = filtered(teacher, labels)
    assert not found.agrees.all()
    assert len(found.kept) >= 0.95 * len(labels)


def test_a_teacher_that_knows_nothing_is_sure_of_nothing():
    found = filtered(np.full((30, CLASSES), 1 / CLASSES), np.array([0, 1, 2] * 10))
    assert found.wrong_share == pytest.approx(0.5)
    assert np.allclose(found.sure, 0.5)
    assert len(found.kept) == 0


def test_probabilities_of_zero_and_one_are_no_trouble():
    teacher = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    found = filtered(teacher, np.array([0, 1, 1]))
    assert np.isfinite(found.sure).all()
    assert 1 / 3 < found.wrong_share < 1 / 2
    assert found.kept.tolist() == [0, 1]


# --------------------------------------------------------------------------- the switch


def trained(right: list[float]) -> Trained:
    """What is learnt, with this probability of each held-out example's label, which is the first class."""
    said = np.array([[each, *[(1 - each) / 2] * 2] for each in right])[None, None]
    held = HeldOut(said, np.zeros(len(right), np.int_)) if right else None
    return Trained([], np.empty(0), 1.0, 40, None, len(right), held)


SURE_TEACHER = np.array([[0.98, 0.01, 0.01]] * 6 + [[0.01, 0.98, 0.01]] * 4)
LABELS = np.array([0] * 5 + [2] + [1] * 4)


def decided(without: Trained, with_them: Trained, teacher=SURE_TEACHER):
    asked = []

    def learn(kept):
        asked.append(kept)
        return with_them

    found = switch(without, {FINAL: teacher, 0: teacher[:, ::-1]}, LABELS, NAMES, learn, copies=2)
    return *found, asked


def test_it_is_on_where_held_out_examples_gain_and_uses_what_was_learnt_with_them():
    better = trained([0.8, 0.7])
    found, used, asked = decided(trained([0.6, 0.7]), better)
    assert found.is_on
    assert used is better
    assert found.nll_with < found.nll_without == pytest.approx(-np.log([0.6, 0.7]).mean())
    (kept,) = asked
    assert kept[FINAL].tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert kept[0].tolist() != kept[FINAL].tolist()


@pytest.mark.parametrize("right", [[0.6, 0.7], [0.5, 0.7]])
def test_a_tie_and_a_loss_leave_it_off(right):
    before = trained([0.6, 0.7])
    found, used, _ = decided(before, trained(right))
    assert not found.is_on
    assert used is before
    assert found.reason.startswith("off: ")


def test_where_more_labels_look_wrong_than_right_it_is_off_and_nothing_is_trained():
    """The same teacher, and three of five labels moved to another class."""
    moved = np.array([0, 0, 2, 2, 2, 2, 1, 0, 0, 0])
    asked = []
    found, _ = switch(trained([0.5]), {FINAL: SURE_TEACHER}, moved, NAMES, asked.append)
    assert found.wrong_share > 0.5
    assert found.kept == 3
    assert (found.is_on, asked) == (False, [])
    assert "more of the labels look wrong" in found.reason


def test_counts_and_figures_of_both_decisions_are_kept_and_survive_json():
    found, _, _ = decided(trained([0.6, 0.3]), trained([0.8, 0.7]))
    assert (found.given, found.copies, found.agreed, found.kept, found.held_out) == (12, 2, 9, 9, 2)
    assert (found.per_label["a"].given, found.per_label["c"].kept) == (5, 0)
    assert (found.accuracy_without, found.accuracy_with) == (0.5, 1.0)
    assert Augmentation.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_without_anything_kept_or_held_out_it_is_off_and_nothing_is_trained():
    found, _, asked = decided(trained([0.5]), trained([0.9]), np.full((10, CLASSES), 1 / CLASSES))
    assert not found.is_on
    assert "sure of no" in found.reason
    assert asked == []
    found, _, asked = decided(trained([]), trained([]))
    assert not found.is_on
    assert "held out" in found.reason
    assert asked == []


# --------------------------------------------------------------------------- in the classifier


class Colours:
    """A black box that sees of a text only how much of it is 'red' and how much 'blue'."""

    name, layers = "colours", (1,)

    def read(self, texts, progress=None):
        rows = [[text.count("red"), text.count("blue"), 1.0] for text in texts]
        return [Reading(np.array([[row]]), np.array([row])) for row in np.array(rows)]


SAID = {"red": ["red red"], "blue": ["blue blue"]}


def coloured(count: int, seed: int, noise: float = 0.0):
    """Texts of two colours, mixed; of a share the label is the other one."""
    rng, texts, labels = np.random.default_rng(seed), [], []
    for at in range(count):
        main, other = ("red", "blue") if at % 2 else ("blue", "red")
        many = int(rng.integers(2, 6))
        said = rng.permutation([main] * many + [other] * int(rng.integers(0, many)) + ["so"] * 3)
        texts.append(" ".join([*said, f"{seed}-{at}", f"n{at}", f"m{at}", f"k{at}", f"j{at}"]))
        labels.append(other if rng.random() < noise else main)
    return texts, labels


def test_fit_says_what_it_decided_and_the_saved_folder_says_so_too(tmp_path):
    model = CrossTuneClassifier(SAID, features=Colours())
    model.fit(*coloured(16, 0), augmented=coloured(60, 1, noise=0.5))
    found = model.augmentation_
    assert found.given == 60
    assert found.kept < 60
    assert found.wrong_share == pytest.approx(0.5, abs=0.2)
    facts = json.loads((model.save(tmp_path / "kept") / "crosstune.json").read_text("utf-8"))
    assert facts["augmentation"]["reason"] == found.reason
    assert CrossTuneClassifier.load(tmp_path / "kept", features=Colours()).augmentation_ == found


def test_switched_off_the_classifier_is_the_one_without_to_the_bit():
    shots, asked = coloured(16, 0), coloured(40, 3)[0]
    alone = CrossTuneClassifier(SAID, features=Colours()).fit(*shots)
    assert alone.augmentation_ is None
    texts, labels = coloured(40, 2)
    swapped = ["red" if label == "blue" else "blue" for label in labels]
    found = CrossTuneClassifier(SAID, features=Colours()).fit(*shots, augmented=(texts, swapped))
    assert not found.augmentation_.is_on
    assert np.array_equal(found.predict_proba(asked), alone.predict_proba(asked))


def test_copies_of_shots_and_of_dev_texts_are_left_out():
    shots, dev = coloured(16, 0), coloured(8, 1)
    copied = ([shots[0][0].upper(), dev[0][0] + "!"], [shots[1][0], dev[1][0]])
    found = CrossTuneClassifier(SAID, features=Colours()).fit(*shots, *dev, augmented=copied).augmentation_
    assert (found.given, found.copies, found.is_on) == (2, 2, False)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "fine", "label": "c", "source": "generated"}, "more.jsonl:1: label: 'c' is not among"),
        ({"text": "fine", "source": "pseudo"}, "more.jsonl:1: label: missing"),
        ({"text": " ", "label": "a"}, "more.jsonl:1: text: is empty"),
    ],
)
def test_a_file_of_further_texts_that_cannot_be_used_is_bad_input(tmp_path, monkeypatch, capsys, row, said):
    monkeypatch.chdir(tmp_path)
    good = [{"text": "fine", "label": "a"}, {"text": "poor", "label": "b"}]
    Path("train.jsonl").write_text("".join(json.dumps(each) + "\n" for each in good))
    Path("labels.json").write_text(json.dumps({"a": "Praise.", "b": "Blame."}))
    Path("more.jsonl").write_text(json.dumps(row) + "\n")
    line = "classify fit --train train.jsonl --labels labels.json --augmented more.jsonl --out made"
    monkeypatch.setattr("sys.argv", ["trimtab", *line.split()])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
    assert not Path("made").exists()


def test_no_further_texts_are_none():
    model = CrossTuneClassifier(SAID, features=Colours())
    assert model.fit(*coloured(16, 0), augmented=([], [])).augmentation_ is None


@pytest.mark.parametrize(
    ("texts", "labels", "said"),
    [
        (["red"], ["green"], "'green' is not among"),
        ([" "], ["red"], "is empty"),
        (["red"], [], "one label for each text"),
        ([("red", "blue")], ["red"], "all single texts or all pairs"),
    ],
)
def test_further_texts_that_cannot_be_used_are_named(texts, labels, said):
    with pytest.raises(InputError, match=said):
        CrossTuneClassifier(SAID, features=Colours()).fit(*coloured(16, 0), augmented=(texts, labels))
