"""A real browser opens a comparison: it finds the numbers, sorts, and nothing overflows a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedlearn.cli import main
from fedlearn.report.inversion import write_inversion
from fedlearn.report.page import write_report
from tests.fedlearn.report.test_strip import shown
from tests.simulations.small import table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine to open a report in"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for seed in (0, 1, 2):
        overrides = [*table(folder), "privacy.delta=1e-3", f"seed={seed}"]
        assert main(["simulate", *overrides, f"out={folder / 'runs' / f'seed{seed}'}"]) == 0
    write_inversion(folder / "runs", shown())
    write_report(folder / "runs")
    return folder / "runs"


def opened(page: Path, profile: Path, *, width: int = 1280, script: str = "") -> tuple[str, str]:
    """The page as the browser sees it after its scripts and `script`, and what it complained of."""
    if script:
        # Ours is refused by the page's own policy, which the unaltered page is tested with.
        text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text())
        page = profile / "altered.html"
        page.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
         "--no-first-run", "--disable-background-networking", "--disable-component-update",
         "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={profile / 'profile'}",
         f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


def test_browser__finds_the_numbers_and_obeys_the_policy(folder: Path, tmp_path: Path) -> None:
    seen, complaints = opened(folder / "report.html", tmp_path)
    for seed in (0, 1, 2):
        result = json.loads((folder / f"seed{seed}" / "result.json").read_text())
        assert f"{result['final']['evaluate']['accuracy']:.3f}" in seen
    assert seen.count("<img") == 6, "the images of the demonstration, which the policy allows"
    assert "CONSOLE" not in complaints, complaints


def test_browser__sorts_by_the_column_that_is_clicked(folder: Path, tmp_path: Path) -> None:
    click = (
        "const head = [...document.querySelectorAll('.sorted th')]"
        ".find((th) => th.textContent === 'accuracy');"
        "head.querySelector('button').click(); head.querySelector('button').click();"
    )
    seen, _ = opened(folder / "report.html", tmp_path, script=click)
    body = seen[seen.index('<table class="sorted"') :].split("</table>")[0]
    heads = re.findall(r"<button[^>]*>([^<]*)<", body)
    column = heads.index("accuracy")
    rows = re.findall(r"<tr>(<td.*?)</tr>", body, re.DOTALL)
    keys = [float(re.findall(r'data-key="([^"]*)"', row)[column]) for row in rows]
    assert keys == sorted(keys, reverse=True)
    assert 'aria-sort="descending"' in body


@pytest.mark.parametrize("name", [".", "seed0"])
def test_browser__of_a_phone_shows_all_without_scrolling_sideways(
    folder: Path, tmp_path: Path, name: str
) -> None:
    # Headless Chromium has a least width for windows, not for frames.
    source = json.dumps((folder / name / "report.html").read_text()).replace("</", "<\\/")
    page = tmp_path / "phone.html"
    page.write_text(
        '<iframe style="width:360px;height:800px;border:0"></iframe><p id="found"></p><script>'
        f"const frame = document.querySelector('iframe'); frame.onload = () => {{"
        "const root = frame.contentDocument.documentElement;"
        "const found = document.querySelector('#found');"
        "found.textContent = `${root.scrollWidth} of ${root.clientWidth}`;"
        f"}}; frame.srcdoc = {source};</script>"
    )
    seen, _ = opened(page, tmp_path)
    found = re.search(r'id="found">(\d+) of (\d+)<', seen)
    assert found is not None
    assert found[1] == found[2]
    assert 330 < int(found[2]) <= 360  # less the scroll bar


@pytest.mark.parametrize("code", ["en", "zh"])
def test_browser__prints_a_run_on_four_pages(folder: Path, tmp_path: Path, code: str) -> None:
    """An officer's page, and three for who wants to check it."""
    run, printed = shutil.copytree(folder / "seed0", tmp_path / "run"), tmp_path / "run.pdf"
    write_report(run, code)
    subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
         "--no-pdf-header-footer", f"--print-to-pdf={printed}", (run / "report.html").as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    assert len(re.findall(rb"/Type\s*/Page[^s]", printed.read_bytes())) <= 4
