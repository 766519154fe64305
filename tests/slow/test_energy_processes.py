"""Laws of training in several processes: what one process would train, whoever dies."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from colours import recorded
from ranked import together
from trimtab.cli import adapting
from trimtab.cli.settings import Settings
from trimtab.energy import EnergyModel, FitReport, FitSettings, Progress, fit_energy
from trimtab.energy.processes import last_words
from trimtab.energy.ranks import Ranks
from trimtab.errors import RunError
from trimtab.types import Contrast, PrefixTarget

pytest.importorskip("accelerate", reason="accelerate is not installed")

pytestmark = pytest.mark.slow

SETTINGS = FitSettings(lr=3e-3, epochs=3, accumulation=3, bf16=False, patience=9, checkpoint_every_s=0.0)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def coloured(count: int, seed: int = 0) -> list[Contrast]:
    """Questions whose right answers take the blue way."""
    rng = random.Random(seed)

    def answer(way: str) -> str:
        return f"The {way} way ." * rng.randint(1, 5) + f" The answer is {rng.randint(1, 99)} ."

    return [
        Contrast(
            f"q{at}",
            f"What is {at} plus 1 ?",
            (answer("blue"), answer("blue")),
            (answer("red"), answer("red")),
        )
        for at in range(count)
    ]


GIVEN = {
    "prefixes": [PrefixTarget(f"q{at}", "What is the way?", "The blue way .", 0.3) for at in range(5)],
    "held_out": coloured(5, seed=9),
}


def tiny(backbone: Path) -> EnergyModel:
    return EnergyModel.pretrained(backbone, max_length=48, device="cpu")


def figures(report: FitReport) -> list[float]:
    """What must be the same in however many processes a fit was done, but for rounding."""
    known = [(each.step, each.training_loss or 0.0, each.ranking_loss) for each in report.history]
    return [figure for row in known for figure in row]


def workers_of(folder: Path) -> Iterator[int]:
    """The processes that train what is in the folder, without their launcher."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().split(b"\0")
        except OSError:  # it has ended in between
            continue
        is_worker = b"trimtab.energy.worker" in command and b"torch.distributed.run" not in command
        if is_worker and any(str(folder).encode() in part for part in command):
            yield int(entry.parent.name)


# --------------------------------------------------------------------------- ranks, as threads


class KilledError(Exception):
    """Stands for the end of all processes."""


def fitted(backbone: Path, size: int, **given) -> list[tuple[FitReport | None, EnergyModel]]:
    """What a fit by so many ranks gives in each, and its model: None where it was killed.

    Threads share one generator of random numbers: they draw none.
    """
    energies = [tiny(backbone) for _ in range(size)]
    for module in (module for energy in energies for module in energy.network.modules()):
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def work(ranks: Ranks) -> FitReport | None:
        try:
            return fit_energy(energies[ranks.rank], coloured(7), SETTINGS, **GIVEN, **given, ranks=ranks)
        except KilledError:
            return None

    return list(zip(together(size, work), energies, strict=True))


def weights(energy: EnergyModel) -> dict[str, torch.Tensor]:
    return dict(energy.network.named_parameters())


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_train_what_one_process_trains(tiny_backbone, size):
    ((alone, expected),) = fitted(tiny_backbone, 1)
    found = fitted(tiny_backbone, size)
    first = weights(found[0][1])
    for report, energy in found:
        assert figures(report) == pytest.approx(figures(alone), abs=1e-3)
        assert (report.best_step, report.steps) == (alone.best_step, alone.steps)
        for name, tensor in weights(energy).items():
            assert torch.allclose(tensor, weights(expected)[name], atol=1e-3), name
            assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3)])
def test_a_fit_goes_on_in_another_number_of_processes(tmp_path, tiny_backbone, before, after):
    def kill(progress: Progress) -> None:
        if progress.step == 4:
            raise KilledError

    ((whole, _),) = fitted(tiny_backbone, 1)
    killed = fitted(tiny_backbone, before, checkpoint_dir=tmp_path, progress=kill)
    assert [report for report, _ in killed] == [None] * before
    for report, _ in fitted(tiny_backbone, after, checkpoint_dir=tmp_path):
        assert report.resumed_from >= 3
        assert figures(report) == pytest.approx(figures(whole), abs=1e-3)


# --------------------------------------------------------------------------- why they ended


KILLED = "  rank      : 1 (local_rank: 1)\n  exitcode  : {} (pid: 7)\n"
TRACE = "[rank{}]: Traceback (most recent call last):\n[rank{}]:   File ...\n[rank{}]: {}\n"


@pytest.mark.parametrize(
    ("codes", "said", "words"),
    [
        ([1, 1], ["trimtab.errors.RunError: the loss: nan", "RuntimeError: closed by peer"], "the loss: nan"),
        ([-15, 1], ["", "OutOfMemoryError: tried to allocate"], "OutOfMemoryError: tried to allocate"),
        ([1, -9], ["RuntimeError: Connection closed by peer", ""], "one was killed by SIGKILL"),
        ([-15, -15], ["", ""], "nothing was said"),
    ],
)
def test_an_error_of_ours_comes_before_a_signal_and_that_before_what_followed_from_it(
    tmp_path, codes, said, words
):
    (tmp_path / "launcher.log").write_text("".join(map(KILLED.format, codes)), "utf-8")
    for rank, line in enumerate(said):
        log = tmp_path / "logs" / "run" / "attempt_0" / str(rank) / "stderr.log"
        log.parent.mkdir(parents=True)
        log.write_text(TRACE.format(rank, rank, rank, line) if line else "a warning\n", "utf-8")
    assert last_words(tmp_path) == words


# --------------------------------------------------------------------------- the command


def settings_in(folder: Path, backbone: Path, rows: Path, workers: int) -> Settings:
    given = {
        "recorded": rows,
        "backbone": str(backbone),
        "max_length": 64,
        "epochs": 2,
        "lr": 0.003,
        "threads": 1,
    }
    there = {"work_dir": folder / "work", "out": folder / "adapter", "training_workers": workers}
    return Settings.model_validate({**given, **there})


def until_there_are(count: int, folder: Path) -> list[int]:
    """The workers, once there are so many."""
    waits_until = time.monotonic() + 60
    while len(found := list(workers_of(folder))) != count:
        assert time.monotonic() < waits_until, found
        time.sleep(0.1)
    return found


def test_a_killed_worker_is_named_and_the_next_start_makes_the_adapter_of_one_process(
    tmp_path, tiny_backbone, capsys
):
    rows = recorded(tmp_path / "r.jsonl", 40)
    together, alone = (settings_in(tmp_path / str(size), tiny_backbone, rows, size) for size in (2, 1))
    killer = threading.Thread(target=lambda: os.kill(until_there_are(2, tmp_path)[0], signal.SIGKILL))
    killer.start()
    with pytest.raises(RunError, match=r"killed by SIGKILL; .*goes on") as refused:
        adapting.run(together, True)
    killer.join()
    assert refused.value.exit_code == 1
    found = []
    for settings in (together, alone):
        assert adapting.run(settings, True) == 0
        out, err = capsys.readouterr()
        assert re.search(r"round 0: fit: (\d+) of \1\b", err), "how far it is, is seen"
        metrics = json.loads(out)["metrics"]
        found.append({name: each for name, each in metrics.items() if name.startswith("dev")})
    assert found[0] == found[1]
    (folder,) = (together.work_dir / "runs").iterdir()
    assert not (folder / "training").exists()


def test_a_killed_command_leaves_no_worker(tmp_path, tiny_backbone):
    settings = settings_in(tmp_path, tiny_backbone, recorded(tmp_path / "r.jsonl", 40), 2)
    flags = [f"--{name.replace('_', '-')}={getattr(settings, name)}" for name in settings.model_fields_set]
    command = [str(Path(sys.executable).with_name("trimtab")), "adapt", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until_there_are(2, tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    until_there_are(0, tmp_path)
