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

from unnoise.report import Pairs, Report, write

WIDTHS = (400, 1400)
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
LONG = "a_figure_with_a_very_long_name_without_a_space_" * 4 + "<&>"


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
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def full() -> Report:
    """A report with every section, of real digits: held-out ones stand for samples."""
    from unnoise.data import Digits
    from unnoise.metrics.figure import Figure
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


def variants(full: Report) -> dict[str, Report]:
    """The full report, one of a hundred classes of large wide pictures in colour, and one without pictures."""
    wide = np.broadcast_to(np.arange(200, dtype=np.uint8)[:, None], (4, 120, 200, 3))
    return {
        "full": full,
        "many": replace(full, pairs=Pairs(wide, wide, [0.0] * 4), classes={f"{LONG} {i}": wide for i in range(102)}),
        "bare": replace(full, pairs=None, classes={}, lines=(), history=(), protocol={}),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["full", "many", "bare"])
def test_a_report_is_whole_at_every_width(browser: Any, full: Report, tmp_path: Path, name: str, scheme: str) -> None:
    path = write(tmp_path / "report.html", variants(full)[name])
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
        assert all(n > 0 for n in loaded) and len(loaded) == {"full": 34, "many": 110, "bare": 0}[name]
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
