"""A fit in several processes of this machine, one a GPU or a few CPU threads each.

They are started and watched by torch's own launcher (torchrun) and end with this process, whatever it dies
of. What each of them does stands in `apart`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from signal import Signals

import torch

from trimtab.energy.apart import read_fit, write_fit
from trimtab.energy.fit import Fit
from trimtab.energy.fitting import FitReport, FitSettings, Progress
from trimtab.energy.model import EnergyModel
from trimtab.errors import ConfigError, MissingExtraError, RunError
from trimtab.types import Contrast, PrefixTarget

END_S = 10.0  # how long the launcher may take to end
_WORKER = "trimtab.energy.worker"
_LOGS = "logs"
_LAUNCHER = "launcher.log"
_MARK = re.compile(r"(\[rank\d+\]: )?(?P<own>trimtab\.errors\.\w+: )?(?P<said>.*)")  # a traceback's last line
_EXIT_CODE = re.compile(
    r"^\s*exitcode\s*:\s*(-?\d+)", re.MULTILINE
)  # in the launcher's report, one a process


def fit_in_processes(
    energy: EnergyModel,
    contrasts: Sequence[Contrast],
    settings: FitSettings | None = None,
    *,
    workers: int,
    prefixes: Sequence[PrefixTarget] = (),
    held_out: Sequence[Contrast] = (),
    checkpoint_dir: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitReport:
    """`fit` in so many processes, which share out torch's threads: the same weights but for rounding.

    A checkpoint does not tell how many there were: a fit may go on in more, in fewer, or in this process.

    Raises:
        ConfigError: there are fewer GPUs.
        MissingExtraError: accelerate is not installed.
        RunError: a process has died; the same fit goes on from its last checkpoint.
    """
    _refuse(energy, workers)
    with _folder(checkpoint_dir) as folder:
        write_fit(
            folder,
            energy,
            contrasts,
            settings,
            prefixes=prefixes,
            held_out=held_out,
            checkpoint_dir=checkpoint_dir,
            threads=max(1, torch.get_num_threads() // workers),
        )
        _launch(folder, workers, progress)
        return read_fit(folder, energy)


def in_processes(energy: EnergyModel, workers: int) -> Fit:
    """`fit_in_processes` with so many.

    Raises:
        ConfigError: there are fewer GPUs.
        MissingExtraError: accelerate is not installed.
    """
    _refuse(energy, workers)
    return partial(fit_in_processes, workers=workers)


def _refuse(energy: EnergyModel, workers: int) -> None:
    if find_spec("accelerate") is None:
        raise MissingExtraError("distributed", "training in several processes")
    if energy.device.type == "cuda" and workers > torch.cuda.device_count():
        raise ConfigError(
            f"{workers} training workers need a GPU each, and this machine has {torch.cuda.device_count()}"
        )


@contextmanager
def _folder(checkpoint_dir: Path | None) -> Iterator[Path]:
    """An empty folder beside the checkpoints, else among the temporary ones; gone afterwards."""
    if checkpoint_dir is None:
        with tempfile.TemporaryDirectory(prefix="trimtab-fit-") as name:
            yield Path(name)
        return
    folder = checkpoint_dir.absolute().with_name("training")
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _launch(folder: Path, workers: int, progress: Callable[[Progress], None] | None) -> None:
    """Returns when all processes have ended well. Raises RunError with the last words of one that died."""
    with (folder / _LAUNCHER).open("w") as log, _launched(folder, workers, log.fileno()) as launcher:
        assert launcher.stdout is not None
        for line in launcher.stdout:
            if progress and line.startswith("{"):
                progress(Progress(**json.loads(line)))
        code = launcher.wait()
    if code:
        raise RunError(
            f"training in {workers} processes has ended early: {last_words(folder)}; "
            "the same command goes on from the last checkpoint"
        )


@contextmanager
def _launched(folder: Path, workers: int, log: int) -> Iterator[subprocess.Popen[str]]:
    """The launcher at work; whatever happens here, no process of it is left behind."""
    where = ["--standalone", f"--nproc-per-node={workers}", "--redirects=2", f"--log-dir={folder / _LOGS}"]
    command = [sys.executable, "-m", "torch.distributed.run", *where, "-m", _WORKER, str(folder)]
    with subprocess.Popen(  # noqa: S603  (this Python, and a folder of ours)
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
    ) as launcher:
        try:
            yield launcher
        finally:
            assert launcher.stdin is not None
            launcher.stdin.close()  # the workers end when they read that nothing comes any more
            launcher.terminate()
            try:
                launcher.wait(END_S)
            except subprocess.TimeoutExpired:
                launcher.kill()


def last_words(folder: Path) -> str:
    """Why they ended: an error of ours, else the signal that killed one, else the first complaint."""
    complaints = [_MARK.match(line) for line in _complaints(folder)]
    report = (folder / _LAUNCHER).read_text("utf-8", "replace")
    signals = [
        -code for code in map(int, _EXIT_CODE.findall(report)) if code < 0 and code != -Signals.SIGTERM
    ]
    for found in complaints:
        if found and found["own"]:
            return found["said"]
    if signals:
        return f"one was killed by {Signals(signals[0]).name}"
    return next((found["said"] for found in complaints if found), "nothing was said")


def _complaints(folder: Path) -> Iterator[str]:
    """The last lines of tracebacks, the earliest first."""
    for path in sorted((folder / _LOGS).rglob("stderr.log"), key=lambda path: path.stat().st_mtime_ns):
        lines = path.read_text("utf-8", "replace").strip().splitlines()
        if any("Traceback" in line for line in lines):
            yield lines[-1]
