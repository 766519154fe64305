"""The report in a real browser, where one is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trimtab.evaluate import ReportData, Transfer, compare, write_report
from trimtab.stopping import DecisionRule
from trimtab.types import Candidate, Pool, Question, Verdict

pytestmark = pytest.mark.slow

PROBE = """<iframe src="report.html" style="width:{width}px;height:4000px;border:0"></iframe>
<script>onload = () => {{
  const page = document.querySelector("iframe").contentDocument.documentElement;
  document.title = `${{page.scrollWidth}} of ${{page.clientWidth}}`;
}}</script>"""
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--allow-file-access-from-files",  # the probe reads the page in its frame
    "--virtual-time-budget=5000",
)


@pytest.fixture(scope="module")
def browser() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here")
    return found


@pytest.mark.parametrize("width", [340, 375, 768, 1280])
def test_the_page_never_scrolls_sideways(browser: str, tmp_path: Path, width: int) -> None:
    texts = ("A_very_long_word" * 12, "A sentence that says why.\n" * 4)
    pools = [
        Pool(
            Question(f"q{index}", "How much? " * 20, "7"),
            (
                Candidate(texts[1], "8", -1.0, verdict=Verdict.WRONG),
                Candidate(texts[0], "8", -1.0, verdict=Verdict.WRONG),
                Candidate(texts[0], "7", 3.0, verdict=Verdict.RIGHT),
            ),
        )
        for index in range(8)
    ]
    comparison = compare(pools, DecisionRule("weighted_vote"))
    transfers = (Transfer("another_black_box_" * 6, comparison),)
    about = {"data": "sha256:" + "0123456789abcdef" * 4}
    write_report(
        tmp_path, ReportData("A report", comparison, "scripted", (), transfers, about, "trimtab " * 40)
    )
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [browser, *FLAGS, profile, "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    measured = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert measured is not None
    assert int(measured[1]) <= int(measured[2])
