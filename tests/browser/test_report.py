"""Reports in a real browser: no error, every picture loads, and nothing has to be scrolled sideways."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unnoise.cli import main
from unnoise.metrics.figure import Figure
from unnoise.report import Pairs, Report, write

WIDTHS = (400, 1400)
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
LONG = "a_figure_with_a_very_long_name_without_a_space_" * 4 + "<&>"


NAN, INF = float("nan"), float("inf")
PICTURES = {"run": 58, "full": 34, "many": 110, "noise": 72, "bare": 0, "odd": 0, "alone": 0}
CHARTS = """
    const wrong = [], eps = 0.5;
    for (const chart of document.querySelectorAll("svg")) {
        const edge = chart.getBoundingClientRect();
        const texts = [...chart.querySelectorAll("text")].map(t => [t.textContent, t.getBoundingClientRect()]);
        for (const [i, [said, a]] of texts.entries()) {
            if (a.left < edge.left - eps || a.right > edge.right + eps) wrong.push(said + " is cut off");
            if (a.top < edge.top - eps || a.bottom > edge.bottom + eps) wrong.push(said + " is cut off");
            for (const [other, b] of texts.slice(i + 1))
                if (a.left < b.right - eps && b.left < a.right - eps && a.top < b.bottom - 3 && b.top < a.bottom - 3)
                    wrong.push(said + " lies on " + other);
        }
    }
    return wrong;
"""
"""Texts of charts that lie on each other, or are cut off."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium without a window, with a profile of its own."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("a browser is needed: apt install chromium chromium-driver")
    pytest.importorskip("selenium", reason="selenium is needed: pip install 'unnoise[browser]'")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        for name in ("no_proxy", "NO_PROXY"):  # the driver is spoken to by HTTP
            patch.setenv(name, "localhost,127.0.0.1")
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        yield driver
        driver.quit()


@pytest.fixture(scope="module")
def full() -> Report:
    """A report with every section, of real digits: held-out ones stand for samples."""
    from unnoise.data import Digits
    from unnoise.modality import Image

    data, codec = Digits().load(), Image((1, 8, 8), high=16)
    held_out, train = (d["x"].flatten(1).double() for d in (data.held_out, data.train))
    near = torch.cdist(held_out[:12], train).min(1)
    lines = [
        {"seen": s, "loss": 9 / s, "held_out": 8 / s, "loss_by_logsnr": [0.1 * i for i in range(10)]}
        for s in range(10, 200)
    ]
    return Report(
        "digits",
        "2026-01-02",
        "cpu",
        [
            Figure("recall", 0.95, 0.977, 0.01),
            Figure(LONG, float("nan"), 1e-9, 2e9),
            Figure("kid", -123456.789, 0.0, 9.0),
        ],
        facts={"Data": data.about, LONG: LONG},
        pairs=Pairs(
            codec.pictures(data.held_out["x"][:12]),
            codec.pictures(data.train["x"][near.indices]),
            near.values.tolist(),
            16.6,
        ),
        classes={str(k): codec.pictures(data.held_out["x"][data.held_out["label"] == k][:8]) for k in range(10)},
        lines=lines,
        history=[{"seen": s, "name": "recall", "value": s / 9, "error": 0.05} for s in range(1, 9)],
        protocol={"judge": {"$type": "judges.Judge", "net": {LONG: LONG}}},
        protocol_hash="0123456789abcdef" * 4,
        measured={"weights": 0.1},
        command=f"unnoise evaluate runs/{LONG}",
    )


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report that `unnoise evaluate` writes of a run of few steps."""
    copy = shutil.copytree(tiny, tmp_path_factory.mktemp("run") / "digits")
    assert main(["evaluate", str(copy), "-n", "900", "--history", "2", "--steps", "2"]) == 0
    return copy / "report.html"


def variants(full: Report) -> dict[str, Report]:
    """The full report; of a hundred classes of wide pictures in colour; without classes; without pictures; with nothing
    that is finite; with neither real data nor errors."""
    wide = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (4, 120, 200, 3))
    noise = np.random.default_rng(0).integers(0, 256, (24, 256, 256, 3), np.uint8)
    table = [Figure(f"{n} evaluations: fd-{n} of 50,000", -1e-9 * 10**n, 12345.678, 0.1, 1e3) for n in range(25)]
    odd = [
        Figure("recall", NAN),
        Figure("fid", INF, NAN, INF, NAN),
        Figure("kid", -INF, 0.0),
        Figure("b", 0.0, INF, NAN),
    ]
    log = [{"seen": s, "loss": NAN, "held_out": 1e-12 * 10**s, "loss_by_logsnr": [INF] * 10} for s in range(30)]
    shaky = [{"seen": s * 1_234_567, "name": "fid", "value": NAN if s == 4 else 1e5 / 7**s} for s in range(9)]
    bare = replace(full, pairs=None, classes={}, lines=(), history=(), protocol={})
    return {
        "full": full,
        "many": replace(
            full, figures=table, pairs=Pairs(wide, wide, [0.0] * 4), classes={f"{LONG} {i}": wide for i in range(102)}
        ),
        "noise": replace(full, pairs=Pairs(noise, noise, [NAN] * 24), classes={}, samples=noise),
        "bare": bare,
        "odd": replace(bare, figures=odd, lines=log, history=shaky),
        "alone": replace(bare, figures=[Figure("bound, bits per token", 2.5), Figure(LONG, 1.0)]),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "full", "many", "noise", "bare", "odd", "alone"])
def test_a_report_is_whole_at_every_width(
    browser: Any, full: Report, request: pytest.FixtureRequest, tmp_path: Path, name: str, scheme: str
) -> None:
    if name == "run":
        path = request.getfixturevalue("run")
    else:
        path = write(tmp_path / "report.html", variants(full)[name])
    text = path.read_text(encoding="utf8")
    assert len(text) < 3_000_000
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    for width in WIDTHS:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        assert browser.execute_script("return innerWidth") == width
        for details in browser.find_elements("tag name", "details"):
            browser.execute_script("arguments[0].open = true", details)
        widths = browser.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
        assert widths[0] <= widths[1], f"{name} is {widths[0]} px wide on {widths[1]}"
        # Nothing lies beyond the edge unseen, either.
        beyond = browser.execute_script(
            "const w = document.documentElement.clientWidth;"
            "return [...document.body.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > w + 0.5)"
            ".map(e => e.outerHTML.slice(0, 80))"
        )
        assert beyond == []
        loaded = browser.execute_script(
            "return Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
        )
        assert all(n > 0 for n in loaded) and len(loaded) == text.count("<img")
        assert name not in PICTURES or len(loaded) == PICTURES[name]
        assert browser.execute_script(CHARTS) == []
        page = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert page == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 20, 24)"}[scheme]
        assert browser.get_log("browser") == []


def test_the_checks_see_what_is_wrong(browser: Any, tmp_path: Path) -> None:
    """A picture that is none, an address and a line that cannot wrap: each is noticed."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!DOCTYPE html><title>bad</title><img src='data:image/png;base64,AAAA'>"
        "<img src='none.png'><p style='white-space: nowrap'>" + "wide " * 500
    )
    browser.get(path.as_uri())
    assert browser.execute_script("return [...document.images].map(i => i.naturalWidth)") == [0, 0]
    assert browser.execute_script("const e = document.documentElement; return e.scrollWidth > e.clientWidth")
    assert any("none.png" in entry["message"] for entry in browser.get_log("browser"))
