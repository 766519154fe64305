"""The online loop as its users have it: served answers, feedback, a version, promotion, better answers."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from loopback import Body, Reply, Server, said
from trimtab import tasks
from trimtab.adapt.from_feedback import SALT, SHARES, taught
from trimtab.adapt.new_version import FeedbackSettings, learn, trimmed
from trimtab.cli import learning
from trimtab.cli.settings import Settings, resolve
from trimtab.data import Feedback, FeedbackKind, split
from trimtab.energy import EnergyModel, FitSettings, Manifest, save_adapter, verify_adapter
from trimtab.errors import ConfigError, RunError
from trimtab.evaluate.trial import Contender, trial
from trimtab.feedback import GuardSettings
from trimtab.stopping import DecisionRule
from trimtab.store import Heard, Inference, Store, VersionStatus
from trimtab.types import Candidate, Contrast, Pool, Question, Verdict

pytestmark = pytest.mark.slow

NUMERIC = tasks.numeric()
FIT = FitSettings(lr=5e-3, epochs=2, batch_groups=2, accumulation=1, bf16=False)
SPOKEN_OF, FURTHER = range(80), range(80, 99)  # the tiny encoder knows numbers up to 99


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def text_of(number: int) -> str:
    return f"What is {number} plus 1?"


def right(number: int, way: int = 0) -> str:
    return f"The blue way {way}. The answer is {number + 1}."


def wrong(number: int, way: int = 0) -> str:
    return f"The red way {way}. The answer is {(number + 41) % 100}."


def first_version(folder: Path, backbone: Path) -> EnergyModel:
    """An adapter that prefers the red way."""
    from trimtab.energy import fit_energy

    energy = EnergyModel.pretrained(backbone, max_length=48, device="cpu")
    upside_down = [Contrast(f"{n}", text_of(n), (wrong(n),), (right(n),)) for n in range(0, 80, 2)]
    fit_energy(energy, upside_down, FIT)
    save_adapter(
        folder, energy, Manifest(task="numeric", rule="argmax", backbone="tiny", loss="none", max_length=48)
    )
    return energy


@pytest.fixture(scope="module")
def adapter(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "sums"
    first_version(folder, tiny_backbone)
    return folder


# --------------------------------------------------------------------------- without a server


def inference(number: int) -> Inference:
    drawn = tuple(
        Candidate(say(number, way), str(number + 1) if say is right else str((number + 41) % 100))
        for say in (wrong, right)
        for way in (1, 2)
    )
    return Inference(
        f"i{number}", float(number), "sums", 1, text_of(number), (), drawn, drawn[0].text, "answered", 0
    )


def correction(number: int, source: str, *, lies: bool = False) -> Feedback:
    text = wrong(number, 1) if lies else right(number, 1)
    return Feedback(text_of(number), FeedbackKind.CORRECTION, text, "", source, None, f"i{number}")


def told(store: Store, numbers: Sequence[int], *, lies: Sequence[int] = ()) -> None:
    store.add_inferences([inference(number) for number in numbers])
    store.add_feedback([correction(n, f"user-{n % 7}", lies=n in lies) for n in numbers])


def settings(folder: Path, adapter: Path, **given: Any) -> Settings:
    flags = {"adapter": adapter, "work_dir": folder, "lr": 5e-3, "epochs": 2, "threads": 1, "trim": 0.0}
    return resolve(None, {**flags, **given}, {})


def test_a_version_is_made_waits_and_is_not_made_again_until_more_is_said(tmp_path, adapter, capsys):
    with Store.open(tmp_path / "store.db") as store:
        told(store, range(60))
    given = settings(tmp_path, adapter)
    assert learning.run(given, True) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["version"], made["status"], made["trial"]["objection"]) == (2, "candidate", "")
    assert made["trial"]["holdout"]["new"] > made["trial"]["holdout"]["serving"]
    assert verify_adapter(made["folder"]).parent == verify_adapter(adapter).weights_sha256
    with pytest.raises(RunError, match="nothing new was said since sums@v2 was made"):
        learning.run(given, True)
    with Store.open(tmp_path / "store.db") as store:
        assert [each.status for each in store.versions("sums")] == [
            VersionStatus.SERVING,
            VersionStatus.CANDIDATE,
        ]
        assert store.versions("sums")[1].metrics["feedback"]["given"] == 60


def test_asked_for_a_non_loss_is_promoted_and_the_next_version_goes_on_from_it(tmp_path, adapter):
    with Store.open(tmp_path / "store.db") as store:
        told(store, range(50))
    assert learning.run(settings(tmp_path, adapter), False, promote=True, share=0.25) == 0
    with Store.open(tmp_path / "store.db") as store:
        assert [each.share for each in store.versions("sums")] == [1.0, 0.25]
        store.promote("sums", 2, reason="by hand")
        time.sleep(0.01)
        told(store, range(50, 80))
    assert learning.run(settings(tmp_path, adapter), False, promote=True) == 0
    with Store.open(tmp_path / "store.db") as store:
        third = store.versions("sums")[2]
        assert (third.parent, third.status) == (2, VersionStatus.SERVING)


def test_feedback_that_makes_it_worse_is_never_promoted(tmp_path, tiny_backbone):
    """All learning is upside down, and a frozen holdout with known answers shows it."""
    good = tmp_path / "good"
    energy = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu")
    learn_right = [Contrast(f"{n}", text_of(n), (right(n),), (wrong(n),)) for n in range(0, 80, 2)]
    from trimtab.energy import fit_energy

    fit_energy(energy, learn_right, FIT)
    save_adapter(
        good, energy, Manifest(task="numeric", rule="argmax", backbone="tiny", loss="none", max_length=48)
    )
    rows = [
        {
            "id": f"d{n}",
            "question": text_of(n),
            "answer": n + 1,
            "samples": [{"text": wrong(n)}, {"text": right(n)}],
        }
        for n in FURTHER
    ]
    dev = tmp_path / "dev.jsonl"
    dev.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    with Store.open(tmp_path / "store.db") as store:
        store.add_inferences([replace(inference(n), adapter="good") for n in range(60)])
        store.add_feedback([correction(n, f"user-{n % 7}", lies=True) for n in range(60)])
    assert learning.run(settings(tmp_path, good, dev=dev), False, promote=True) == 0
    with Store.open(tmp_path / "store.db") as store:
        made = store.versions("good")[1]
        assert made.status is VersionStatus.CANDIDATE
        assert "not ruled out" in made.reason


def test_too_little_feedback_makes_no_version(tmp_path, adapter):
    with Store.open(tmp_path / "store.db") as store:
        told(store, range(4))
    with pytest.raises(RunError, match="too few for a version"):
        learning.run(settings(tmp_path, adapter), False)
    with Store.open(tmp_path / "store.db") as store:
        assert len(store.versions("sums")) == 1


def test_a_dry_run_says_what_there_is_to_learn_from_and_makes_nothing(tmp_path, adapter, capsys):
    with Store.open(tmp_path / "store.db") as store:
        told(store, range(30))
    assert learning.run(settings(tmp_path, adapter, dry_run=True), True) == 0
    assert json.loads(capsys.readouterr().out)["feedback"]["given"] == 30
    with Store.open(tmp_path / "store.db") as store:
        assert len(store.versions("sums")) == 1


def test_a_version_in_use_is_not_written_over_and_another_heads_loss_is_refused(tmp_path, adapter):
    with Store.open(tmp_path / "store.db") as store:
        told(store, range(30))
    with pytest.raises(ConfigError, match="is version 1 already"):
        learning.run(settings(tmp_path, adapter, out=adapter), False)
    with pytest.raises(ConfigError, match="its head is scalar"):
        learning.run(settings(tmp_path, adapter, loss="mlm"), False)


def test_feedback_on_another_adapters_answers_is_not_learnt_from(tmp_path, adapter, capsys):
    with Store.open(tmp_path / "store.db") as store:
        store.add_inferences([replace(inference(n), adapter="other") for n in range(30)])
        store.add_feedback([correction(n, "ann") for n in range(30)])
    learning.run(settings(tmp_path, adapter, dry_run=True), True)
    assert json.loads(capsys.readouterr().out)["feedback"]["given"] == 0


@pytest.mark.parametrize(("stated", "seconds"), [("90s", 90), ("30m", 1800), ("6h", 21600), ("1.5d", 129600)])
def test_a_schedule_is_stated_in_seconds_minutes_hours_or_days(stated, seconds):
    assert learning.seconds_of(stated) == seconds


@pytest.mark.parametrize("stated", ["6", "h", "-1h", "0h", "1w", ""])
def test_a_schedule_that_is_none_is_refused(stated):
    with pytest.raises(ConfigError, match="--every"):
        learning.seconds_of(stated)


@pytest.mark.parametrize(
    ("given", "name", "folder"), [("a/mine", "mine", "a/mine"), ("sums=a/mine", "sums", "a/mine")]
)
def test_an_adapter_is_named_as_for_the_server(given, name, folder):
    assert learning.named_adapter(resolve(None, {"adapter": given}, {})) == (name, Path(folder))


# --------------------------------------------------------------------------- bad feedback


def further() -> list[Pool]:
    return [
        Pool(
            Question(f"f{n}", text_of(n)),
            (
                Candidate(wrong(n, 3), "w", verdict=Verdict.WRONG),
                Candidate(right(n, 3), "r", verdict=Verdict.RIGHT),
            ),
        )
        for n in FURTHER
    ]


def version(backbone: Path, adapter: Path, said_of: Sequence[Feedback]) -> Contender:
    from trimtab.energy import load_adapter

    energy, manifest = load_adapter(adapter, device="cpu")
    heard = [Heard(at, float(at + 1), each) for at, each in enumerate(said_of)]
    inferences = {f"i{n}": inference(n) for n in SPOKEN_OF}
    learn(energy, manifest, taught(heard, inferences, NUMERIC, GuardSettings()), FeedbackSettings(FIT))
    return Contender(energy, DecisionRule("argmax"))


@pytest.mark.parametrize("planted", [False, True])
def test_a_tenth_of_bad_feedback_does_not_lower_the_holdout_beyond_its_interval(
    tiny_backbone, adapter, planted
):
    clean = [correction(n, f"user-{n % 7}") for n in SPOKEN_OF]
    lied = random.Random(0).sample(SPOKEN_OF, 8)
    if planted:
        bad = [*clean, *(correction(n, "eve", lies=True) for n in lied)]
    else:
        bad = [correction(n, f"user-{n % 7}", lies=n in lied) for n in SPOKEN_OF]
    found = trial(
        further(),
        (),
        version(tiny_backbone, adapter, clean),
        version(tiny_backbone, adapter, bad),
        margin=0.02,
    )
    assert found.holdout is not None
    assert found.holdout.difference.high >= 0
    assert found.holdout.new > 0.9


def test_what_the_others_contradict_most_is_left_out_and_the_weights_stay(tiny_backbone):
    energy = EnergyModel.pretrained(tiny_backbone, max_length=48, device="cpu")
    before = {name: each.clone() for name, each in energy.network.state_dict().items()}
    honest = [Contrast(f"{n}", text_of(n), (right(n),), (wrong(n),)) for n in range(54)]
    flipped = [Contrast(f"{n}", text_of(n), (wrong(n),), (right(n),)) for n in range(54, 60)]
    kept = trimmed(energy, [*honest, *flipped], replace(FIT, epochs=1), 0.1)
    assert set(kept) == set(honest)
    after = energy.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


# --------------------------------------------------------------------------- with a server


class BlackBox:
    """Says wrong and right answers in turn, a question at a time, however many are asked for at once."""

    def __init__(self) -> None:
        self.drawn: Counter[int] = Counter()

    def __call__(self, body: Body) -> Reply:
        number = int(re.findall(r"What is (\d+) plus 1", body["messages"][-1]["content"])[-1])
        count = body.get("n") or 1
        first, self.drawn[number] = self.drawn[number], self.drawn[number] + count
        ways = [wrong(number, 1), right(number, 1), wrong(number, 2), right(number, 2)]
        return said(*(ways[at % 4] for at in range(first, first + count)))(body)


@contextmanager
def serving(folder: Path, box: Server, adapter: Path) -> Iterator[str]:
    command = [
        *(sys.executable, "-m", "trimtab", "serve", "--port", "0", "--work-dir", folder, "--threads", "1"),
        *(
            "--adapter",
            adapter,
            "--model",
            "box",
            "--base-url",
            box.url,
            "--draws",
            "4",
            "--rule",
            "argmax",
            "--unpriced",
        ),
    ]
    log = folder / "server.log"
    environment = {**os.environ, "OPENAI_API_KEY": "sk-none", "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    with (
        log.open("w") as stderr,
        subprocess.Popen(list(map(str, command)), stderr=stderr, env=environment) as process,
    ):
        try:
            yield _address(log, process)
        finally:
            process.terminate()
            assert process.wait(60) == 0, log.read_text()


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    for _ in range(900):
        assert process.poll() is None, log.read_text()
        found = re.search(r"at (http://\S+/v1)", log.read_text())
        if found and _is_ready(found[1]):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url.removesuffix('/v1')}/ready", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def answers(url: str, numbers: Sequence[int]) -> dict[int, dict[str, Any]]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return {n: _asked(client, n) for n in numbers}


def _asked(client: openai.OpenAI, number: int) -> dict[str, Any]:
    reply = client.chat.completions.create(
        model="sums", messages=[{"role": "user", "content": text_of(number)}]
    )
    return reply.model_dump()["trimtab"]


def accuracy(found: dict[int, dict[str, Any]]) -> float:
    return sum(each["answer"] == str(n + 1) for n, each in found.items()) / len(found)


def until(holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        time.sleep(0.2)
    raise AssertionError("it did not come")


def trimtab(folder: Path, *arguments: object) -> None:
    command = [sys.executable, "-m", "trimtab", *map(str, arguments), "--work-dir", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_feedback_on_served_answers_makes_a_version_that_answers_further_questions_better(
    tmp_path, adapter, serve
):
    with serving(tmp_path, serve(BlackBox()), adapter) as url:
        before = accuracy(answers(url, FURTHER))
        for n, each in answers(url, SPOKEN_OF).items():
            is_right = each["answer"] == str(n + 1)
            body = {"right": True} if is_right else {"demonstration": right(n, 1)}
            row = {"inference_id": each["inference_id"], "user": f"user-{n % 7}", **body}
            assert httpx.post(f"{url}/feedback", json=row).json()["new"] == 1
        how = ("--lr", "0.002", "--epochs", "6", "--threads", "1")
        trimtab(tmp_path, "adapt", "--from-feedback", "--promote", "--adapter", adapter, *how)
        until(lambda: answers(url, [95])[95]["version"] == 2)
        assert accuracy(answers(url, FURTHER)) > before + 0.3
        trimtab(tmp_path, "rollback", "sums")
        until(lambda: answers(url, [95])[95]["version"] == 1)
        assert accuracy(answers(url, FURTHER)) == before


@pytest.mark.parametrize("place", list(SHARES))
def test_the_questions_here_have_all_places(place):
    parts = split([Question(str(n), text_of(n)) for n in SPOKEN_OF], SHARES, SALT)
    assert len(parts[place]) > 2
