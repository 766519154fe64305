"""Laws of calibration, of manifests and of what a fit draws: the parts of the energy model without torch."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from trimtab.energy.calibrate import (
    Calibration,
    calibrate,
    calibrate_decisions,
    expected_calibration_error,
    pool_adjacent_violators,
)
from trimtab.energy.groups import Sizes, epoch_batches
from trimtab.energy.manifest import (
    MANIFEST_NAME,
    Manifest,
    RuleSettings,
    manifest_text,
    model_card,
    read_manifest,
    sha256_file,
    verify_adapter,
)
from trimtab.errors import AdapterError
from trimtab.stopping import DecisionCalibration, DecisionRule, Evidence
from trimtab.types import Contrast, PrefixTarget

quick = settings(max_examples=40, deadline=None)
scored = st.lists(st.tuples(st.floats(-20, 20, width=32), st.booleans()), min_size=1, max_size=60)


def logistic_sample(points: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=points) * 3
    return scores, rng.random(points) < expit(1.5 * scores - 0.7)


# ------------------------------------------------------------------------------- calibration


def test_platt_finds_the_curve_that_made_the_outcomes():
    found = calibrate(*logistic_sample(20_000), method="platt")
    assert found.slope == pytest.approx(1.5, abs=0.06)
    assert found.intercept == pytest.approx(-0.7, abs=0.06)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibrated_scores_have_a_small_calibration_error(method):
    scores, right = logistic_sample(4000)
    found = calibrate(scores[:2000], right[:2000], method)
    assert expected_calibration_error(found.apply(scores[2000:]), right[2000:]) < 0.04


def test_few_points_take_platt_and_many_take_isotonic():
    assert calibrate(*logistic_sample(999)).method == "platt"
    assert calibrate(*logistic_sample(1000)).method == "isotonic"


@quick
@given(scored, st.sampled_from(["platt", "isotonic"]))
def test_a_higher_score_is_never_less_probable_and_never_certain(rows, method):
    found = calibrate([g for g, _ in rows], [right for _, right in rows], method)
    probabilities = found.apply(np.linspace(-25, 25, 101))
    assert (np.diff(probabilities) >= -1e-12).all()
    if method == "isotonic":
        assert probabilities.min() > 0
        assert probabilities.max() < 1
    assert np.isfinite(probabilities).all()


@quick
@given(scored)
def test_the_pooled_blocks_are_the_least_squares_rising_fit(rows):
    scores = np.array([g for g, _ in rows])
    values = np.array([float(right) for _, right in rows])
    blocks = pool_adjacent_violators(scores, values)
    # min-max formula: the fit at x is max over s<=x of min over t>=x of the mean on [s, t]
    points = np.unique(scores)
    slow = [
        max(
            min(values[(scores >= s) & (scores <= t)].mean() for t in points[points >= x])
            for s in points[points <= x]
        )
        for x in points
    ]
    levels = [level for _, level in blocks]
    assert sorted(set(np.round(slow, 9))) == sorted(set(np.round(levels, 9)))
    assert levels == sorted(set(levels))


@pytest.mark.parametrize("method", ["auto", "platt", "isotonic"])
def test_one_kind_of_outcome_gives_the_smoothed_base_rate(method):
    assert calibrate([1.0, 2.0, 3.0], [True] * 3, method).apply([-9.0, 9.0]) == pytest.approx([0.8, 0.8])
    assert calibrate([1.0, 2.0, 3.0], [False] * 3, method).apply([-9.0, 9.0]) == pytest.approx([0.2, 0.2])


def test_scores_that_order_answers_the_wrong_way_round_are_flattened_not_reversed():
    found = calibrate([3.0, 2.0, 1.0, 0.0], [False, False, True, True], "platt")
    assert found.slope == 0.0
    assert found.apply([0.0, 3.0]) == pytest.approx([0.5, 0.5])


def test_equal_scores_give_the_base_rate():
    assert calibrate([2.0] * 4, [True, False, True, True], "platt").apply([2.0])[0] == pytest.approx(
        0.7, abs=0.05
    )


def test_a_score_that_separates_perfectly_still_gives_a_finite_curve():
    found = calibrate([-1.0, -0.9, 0.9, 1.0], [False, False, True, True])
    assert np.isfinite(found.slope)
    assert 0.5 < found.apply([1.0])[0] < 1.0


def test_the_calibration_error_is_the_weighted_gap_written_out():
    probabilities, right = [0.1, 0.15, 0.9, 0.95, 1.0], [False, True, True, True, False]
    slow = 2 / 5 * abs(0.125 - 0.5) + 3 / 5 * abs((0.9 + 0.95 + 1.0) / 3 - 2 / 3)
    assert expected_calibration_error(probabilities, right) == pytest.approx(slow)


@pytest.mark.parametrize(("scores", "right"), [([], []), ([1.0], [True, False]), ([float("nan")], [True])])
def test_scores_that_cannot_be_calibrated_are_refused(scores, right):
    with pytest.raises(ValueError, match="score"):
        calibrate(scores, right)


@quick
@given(scored)
def test_confidences_are_the_probabilities_as_plain_numbers(rows):
    scores = [g for g, _ in rows]
    for method in ("platt", "isotonic"):
        found = calibrate(scores, [right for _, right in rows], method)
        assert found.confidences(scores) == found.apply(scores).tolist()
        assert {type(each) for each in found.confidences(scores)} == {float}


def decision_sample(points: int) -> tuple[list[Evidence], list[bool]]:
    rng = np.random.default_rng(0)
    evidence = [Evidence(*row) for row in rng.normal(size=(points, 2)) * [2.0, 1.5]]
    chances = expit([0.3 + 0.5 * each.share + 1.2 * each.confidence for each in evidence])
    return evidence, list(rng.random(points) < chances)


def test_the_calibration_of_decisions_finds_the_plane_that_made_the_outcomes():
    found = calibrate_decisions(*decision_sample(20_000))
    assert (found.intercept, found.share, found.confidence) == pytest.approx((0.3, 0.5, 1.2), abs=0.06)
    assert found.points == 20_000


evidences = st.builds(Evidence, st.floats(-6, 6), st.floats(-7, 7))
decisions = st.lists(st.tuples(evidences, st.booleans()), min_size=1, max_size=30)


@quick
@given(decisions, evidences)
def test_more_evidence_never_lowers_a_learnt_confidence_and_it_is_finite(rows, other):
    found = calibrate_decisions([each for each, _ in rows], [right for _, right in rows])
    assert found.share >= 0
    assert found.confidence >= 0
    assert 0.0 <= found.apply(other) <= 1.0


def slow_decision_loss(rows: list[tuple[Evidence, bool]], found: DecisionCalibration) -> float:
    """Cross-entropy at Platt's targets plus the ridge on standardised slopes, written out."""
    right = sum(is_right for _, is_right in rows)
    high, low = (right + 1) / (right + 2), 1 / (len(rows) - right + 2)
    loss = 0.0
    for evidence, is_right in rows:
        p, target = found.apply(evidence), high if is_right else low
        loss -= target * np.log(p) + (1 - target) * np.log1p(-p)
    spreads = np.std([[each.share, each.confidence] for each, _ in rows], axis=0)
    return loss + 0.1 * ((found.share * spreads[0]) ** 2 + (found.confidence * spreads[1]) ** 2)


@pytest.mark.parametrize("nudge", [(0.02, 0, 0), (-0.02, 0, 0), (0, 0.02, 0), (0, -0.02, 0), (0, 0, -0.02)])
def test_a_nudge_to_the_calibration_of_decisions_makes_its_loss_no_smaller(nudge):
    evidence, right = decision_sample(60)
    found = calibrate_decisions(evidence, right)
    moved = DecisionCalibration(
        found.intercept + nudge[0], found.share + nudge[1], found.confidence + nudge[2]
    )
    rows = list(zip(evidence, right, strict=True))
    assert slow_decision_loss(rows, found) < slow_decision_loss(rows, moved)


@pytest.mark.parametrize(("right", "rate"), [([True] * 3, 0.8), ([False] * 3, 0.2)])
def test_decisions_of_one_kind_give_the_smoothed_base_rate(right, rate):
    found = calibrate_decisions([Evidence(1.0, 2.0), Evidence(-1.0, 0.0), Evidence(0.0, 5.0)], right)
    assert found.apply(Evidence(-9.0, 9.0)) == pytest.approx(rate)


def test_decisions_without_an_outcome_each_are_refused():
    for evidence, right in ([], []), ([Evidence(0.0, 0.0)], [True, False]):
        with pytest.raises(ValueError, match="one outcome for each decision"):
            calibrate_decisions(evidence, right)


# ------------------------------------------------------------------------------- manifests


def written(folder, **changes) -> Manifest:
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "model.safetensors").write_bytes(bytes(range(256)))
    names = ("config.json", "model.safetensors")
    manifest = Manifest(
        task="numeric",
        backbone="offline",
        loss="ranking_nce",
        max_length=256,
        calibration=Calibration("isotonic", knots=(0.0, 1.5), levels=(0.1, 0.9), points=2),
        metrics={"best_of_n": {"value": 0.5, "low": 0.4, "high": 0.6}},
        files={name: sha256_file(folder / name) for name in names},
        **changes,
    )
    (folder / MANIFEST_NAME).write_text(manifest_text(manifest))
    return manifest


def test_a_manifest_is_read_back_as_it_was_written(tmp_path):
    manifest = written(tmp_path, parent="abc", settings={"lr": 5e-5})
    assert verify_adapter(tmp_path) == manifest
    assert read_manifest(tmp_path).calibration.apply([0.75])[0] == pytest.approx(0.5)


def test_each_rule_comes_back_with_its_own_temperature_and_calibration(tmp_path):
    calibration = DecisionCalibration(-0.1, 0.4, 1.1, 60)
    rules = {
        "weighted_vote": RuleSettings(temperature=0.2),
        "argmax": RuleSettings(calibration=calibration),
    }
    written(tmp_path, rule="argmax", rules=rules)
    found = read_manifest(tmp_path)
    assert found.decision_rule() == DecisionRule("argmax", calibration=calibration)
    assert found.decision_rule("weighted_vote") == DecisionRule("weighted_vote", 0.2)
    assert found.decision_rule("importance_vote") == DecisionRule("importance_vote")
    assert found.decision_rules() == (found.decision_rule("weighted_vote"), found.decision_rule())


@pytest.mark.parametrize(
    "changes",
    [
        {"rule": "plurality"},
        {"rules": {"plurality": {}}},
        {"rules": {"argmax": {"temperature": 0.0}}},
        {"rules": {"argmax": {"temperature": float("inf")}}},
        {"rules": {"argmax": {"weight": 1.0}}},
    ],
)
def test_a_rule_that_could_not_decide_is_refused_in_a_manifest(changes):
    with pytest.raises(ValueError, match="rule"):
        Manifest(task="numeric", backbone="offline", loss="bce", max_length=64, **changes)


def test_files_the_manifest_does_not_name_are_allowed(tmp_path):
    manifest = written(tmp_path)
    (tmp_path / "report.html").write_text("<p>")
    assert verify_adapter(tmp_path) == manifest


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", MANIFEST_NAME])
def test_a_flipped_byte_anywhere_is_an_error_that_names_the_file(tmp_path, name):
    written(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 0x04
        if name == MANIFEST_NAME and _same_json(content, damaged):
            continue
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(AdapterError, match=name.replace(".", r"\.")):
            verify_adapter(tmp_path)


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_a_missing_file_is_an_error_that_names_it(tmp_path):
    written(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(AdapterError, match=r"config\.json is missing"):
        verify_adapter(tmp_path)


def test_a_folder_without_a_manifest_is_no_adapter(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(AdapterError, match="not an adapter folder"):
            read_manifest(folder)


def test_a_manifest_of_a_later_format_is_refused_by_its_number(tmp_path):
    (tmp_path / MANIFEST_NAME).write_text('{"format": 2}')
    with pytest.raises(AdapterError, match=r"format 2.*upgrade"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("change", [{"format": 0}, {"temperature": 0.2}, {"rules": {"a rule of old": {}}}])
def test_an_older_manifest_is_refused_with_what_to_do(tmp_path, change):
    content = {**json.loads(manifest_text(written(tmp_path))), **change}
    del content["checksum"]
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(AdapterError, match=r"train it again.*or use it with the trimtab that made it"):
        read_manifest(tmp_path)


def test_the_model_card_says_what_the_manifest_says(tmp_path):
    card = model_card(written(tmp_path, black_box="some|model"))
    for part in (
        "numeric",
        "some\\|model",
        "all-MiniLM-L6-v2",
        "best_of_n",
        "AutoModelForSequenceClassification",
    ):
        assert part in card


def test_manifests_and_calibrations_are_read_without_torch_and_its_lack_is_told():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from trimtab.energy import read_manifest, fit_calibration\n"
        "from trimtab.errors import MissingExtraError\n"
        "try:\n    from trimtab.energy import EnergyModel\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "trimtab[train]" in done.stdout


# ------------------------------------------------------------------------------- what a fit draws


def contrast(number: int, positives: int, negatives: int) -> Contrast:
    return Contrast(
        f"q{number}",
        "question " * (number % 5 + 1),
        tuple(f"p{number}.{i}" for i in range(positives)),
        tuple(f"n{number}.{i}" for i in range(negatives)),
    )


shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=30)
sizes = st.builds(Sizes, st.integers(1, 5), st.integers(1, 4), st.integers(1, 8), st.integers(1, 3))


@quick
@given(shapes, sizes, st.integers(0, 3))
def test_an_epoch_takes_every_question_once_and_no_more_answers_than_allowed(shape, size, seed):
    contrasts = [contrast(i, p, n) for i, (p, n) in enumerate(shape)]
    batches = epoch_batches(contrasts, [], size, seed, 0)
    seen = [c for batch in batches for c in batch.contrasts]
    assert sorted(c.question_id for c in seen) == sorted(c.question_id for c in contrasts)
    assert all(1 <= len(batch.contrasts) <= size.batch_groups for batch in batches)
    whole = {c.question_id: c for c in contrasts}
    for drawn in seen:
        origin = whole[drawn.question_id]
        assert len(drawn.positives) == min(size.max_positives, len(origin.positives))
        assert len(drawn.negatives) == min(size.max_negatives, len(origin.negatives))
        assert set(drawn.positives) <= set(origin.positives)
        assert set(drawn.negatives) <= set(origin.negatives)


@quick
@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), sizes)
def test_prefixes_are_dealt_evenly_and_cut_by_question(counts, size):
    contrasts = [contrast(i, 1, 1) for i in range(7)]
    prefixes = [PrefixTarget(f"q{q}", "?", f"{i}", 0.5) for q, n in enumerate(counts) for i in range(n)]
    dealt = [batch.prefixes for batch in epoch_batches(contrasts, prefixes, size, 0, 0)]
    assert sum(map(len, dealt)) == sum(min(n, size.max_prefixes) for n in counts)
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_the_same_seed_and_epoch_draw_the_same_and_others_differ():
    contrasts = [contrast(i, 6, 9) for i in range(20)]
    size = Sizes(4, 2, 3, 1)
    drawn = epoch_batches(contrasts, [], size, 0, 0)
    assert drawn == epoch_batches(contrasts, [], size, 0, 0)
    assert drawn != epoch_batches(contrasts, [], size, 0, 1)
    assert drawn != epoch_batches(contrasts, [], size, 1, 0)


def test_asking_the_package_for_an_unknown_name_is_an_attribute_error():
    import trimtab.energy

    assert not hasattr(trimtab.energy, "nothing_of_the_kind")
