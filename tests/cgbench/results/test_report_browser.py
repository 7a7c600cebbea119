"""The HTML report in a headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from cgbench.drawing.pmf import CUT
from cgbench.results.report import report
from cgbench.scoring.referee import Referee

pytestmark = pytest.mark.browser

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-device-scale-factor=1 --window-size=1280,1000"
)
HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
ANGLES = (-np.pi, np.pi)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium here: install the Debian packages chromium and chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost")  # the driver is on this machine
        patch.setenv("NO_PROXY", "localhost")
        found = webdriver.Chrome(options=options, service=Service(driver))
        yield found
        found.quit()


@pytest.fixture(scope="module")
def estimates(aldp) -> dict[str, np.ndarray]:
    """The reference of alanine dipeptide, and two estimates that are off it by a known error."""
    reference = Referee(aldp).reference
    assert reference is not None
    p = reference.pmf.probability
    wave = np.sin(aldp.cvs.centers(0))[:, None] * np.ones(100)
    return {"reference": p, "wave": p * np.exp(-0.3 * wave), "tilt": p * np.exp(0.1 * np.abs(wave))}


@pytest.fixture(scope="module")
def page(tmp_path_factory, write_run, estimates) -> Path:
    """Five methods on alanine dipeptide and Müller-Brown."""
    runs = tmp_path_factory.mktemp("runs")
    for seed in range(3):
        curve = [(n, (1 + 0.2 * seed) * k) for n, k in ((100, 0.4), (900, 0.03), (9000, 2e-3))]
        write_run(runs, "aldp", "wave", estimates["wave"], seed=seed, curve=curve)
    write_run(runs, "aldp", "md", estimates["tilt"], curve=[(1e4, 0.5), (1e5, 0.04), (2e6, 9e-3)])
    write_run(runs, "aldp", "umbrella", estimates["tilt"], curve=[(1e4, 0.5), (40000, 0.2)])
    line = np.exp(-((np.arange(100) - 30.0) ** 2) / 200.0) + 1e-4
    write_run(runs, "muller_brown", "wave", line, curve=[(50, 0.1), (800, 1e-5)])
    write_run(runs, "muller_brown", "md", line[::-1], preset="long", curve=[(1e3, 0.1), (1e5, 1e-3)])
    out = runs / "report.html"
    out.write_text(report([runs])[0], encoding="utf-8")
    return out


@pytest.fixture
def opened(browser, page) -> Any:
    return load(browser, page)


def load(browser: Any, path: Path) -> Any:
    browser.get_log("browser")
    browser.get(path.as_uri())
    return browser


def choose(browser: Any, element: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element("id", element)).select_by_value(value)


def column(browser: Any, key: str) -> list[str]:
    script = """
        const at = [...document.querySelectorAll("#board-table th")].findIndex((th) => th.dataset.key === arguments[0]);
        return [...document.querySelectorAll("#board-table tbody tr")].map((row) => row.children[at].textContent);
    """
    return browser.execute_script(script, key)


def pixels(browser: Any, kind: str, side: int) -> np.ndarray:
    """RGBA of the map of a side, ``[second CV from above, first CV, 4]``."""
    script = """
        const panel = document.querySelectorAll(`.panel[data-kind=${arguments[0]}]`)[arguments[1]];
        const canvas = panel.querySelector("canvas");
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
    """
    return np.array(browser.execute_script(script, kind, side), np.uint8).reshape(100, 100, 4)


def bring(browser: Any, selector: str) -> Any:
    """Scroll to an element, and wait until the page has seen it: scrolling hides the tooltip."""
    element = browser.find_element("css selector", selector)
    settled = "arguments[0].scrollIntoView({block: 'center'}); const done = arguments[1];"
    browser.execute_async_script(settled + "requestAnimationFrame(() => requestAnimationFrame(done));", element)
    return element


def hover(browser: Any, selector: str, right: int = 0) -> str:
    """Point at the middle of an element, or to the right of it; return what the tooltip says."""
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(browser).move_to_element_with_offset(bring(browser, selector), right, 0).perform()
    tip = browser.find_element("id", "tip")
    return tip.text if tip.is_displayed() else ""


def test_it_loads_without_errors_or_requests(opened) -> None:
    assert opened.get_log("browser") == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert opened.find_element("id", "summary").text.startswith("7 runs of 3 methods on 2 systems")
    assert len(opened.find_elements("css selector", "#charts svg")) == 2
    assert len(opened.find_elements("css selector", ".panel[data-kind=error] canvas")) == 4


def test_headers_sort_numbers_as_numbers_and_misses_last(opened) -> None:
    head = "#board-table th[data-key='{}']"
    opened.find_element("css selector", head.format("evaluations") + " button").click()
    assert column(opened, "evaluations") == ["800", "9,000", "40,000", "100,000", "2,000,000"]
    state = "return document.querySelector(arguments[0]).getAttribute('aria-sort')"
    assert opened.execute_script(state, head.format("evaluations")) == "ascending"
    opened.switch_to.active_element.send_keys("\ue007")  # Enter, on the header that has kept the focus
    assert column(opened, "evaluations")[0] == "2,000,000"
    assert opened.execute_script(state, head.format("evaluations")) == "descending"
    target = "evaluations_to_kld_1e-2"
    for _ in range(2):
        opened.find_element("css selector", head.format(target) + " button").click()
        assert column(opened, target)[-1] == "not reached"
    assert column(opened, target)[0] == "2,000,000"
    assert opened.execute_script(state, head.format("evaluations")) == "none"


def test_the_filter_keeps_one_system(opened) -> None:
    choose(opened, "system", "1")
    assert column(opened, "system") == ["muller_brown", "muller_brown"]
    assert len(opened.find_elements("css selector", "#charts svg")) == 1
    assert len(opened.find_elements("css selector", "#run-list details")) == 2
    assert opened.find_element("id", "map-system").get_property("value") == "1"


def test_maps_show_the_pmf_and_its_error_in_the_right_places(opened, estimates) -> None:
    """Every pixel is the colour of its bin, the error aligned at equal mean over the reference."""
    p, q = estimates["reference"], estimates["wave"] / estimates["wave"].sum()
    choose(opened, "error-range", "0.5")
    drawn = pixels(opened, "pmf", 0)[::-1].transpose(1, 0, 2)[:, :, :3].astype(int)
    f = -np.log(q / q.max())
    expected = matplotlib.colormaps["viridis"](np.minimum(f / CUT, 1.0), bytes=True)[:, :, :3].astype(int)
    assert np.abs(drawn - expected).max() <= 4  # of 255: one level of 256, from rounding
    drawn = pixels(opened, "error", 0)[::-1].transpose(1, 0, 2)
    error = np.log(p / q)
    error -= (p * error).sum() / p.sum()
    inside = -np.log(p / p.max()) < CUT - 1e-3
    expected = matplotlib.colormaps["RdBu_r"](error + 0.5, bytes=True).astype(int)
    assert np.abs(drawn.astype(int) - expected)[inside].max() <= 12
    assert (drawn[-np.log(p / p.max()) > CUT + 1e-3] == 0).all()


def test_switching_methods_changes_the_maps(opened) -> None:
    choose(opened, "error-range", "0.5")
    before = [pixels(opened, kind, side) for kind in ("pmf", "error") for side in (0, 1)]
    choose(opened, "method-0", "umbrella")
    after = [pixels(opened, kind, side) for kind in ("pmf", "error") for side in (0, 1)]
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [False, True, False, True]
    assert "umbrella" in opened.find_element("css selector", "#sides figcaption").text
    choose(opened, "method-1", "(reference)")
    assert (pixels(opened, "pmf", 1) != after[1]).any()
    assert len(np.unique(pixels(opened, "error", 1).reshape(-1, 4), axis=0)) == 2  # no error, and beyond the cut


def test_pointing_shows_values(opened) -> None:
    words = hover(opened, "#charts svg")
    for part in ("preset default, seed", "evaluations", "forward KLD"):
        assert part in words
    words = hover(opened, ".panel[data-kind=pmf] canvas", right=-100)
    assert "φ = " in words and "°" in words and "reference: " in words and words.count("error") == 2
    assert "wave, default, seed 0: " in words and "kT" in words
    choose(opened, "map-system", "1")
    assert "reference: " in hover(opened, ".panel[data-kind=pmf]")


def test_arrow_keys_walk_along_a_curve(opened) -> None:
    chart = bring(opened, "#charts svg")
    seen = []
    for _ in range(3):
        chart.send_keys("\ue014")  # arrow to the right
        seen.append(opened.find_element("id", "tip").text)
    assert [text.split("\n")[1] for text in seen] == [
        "10,000 evaluations",
        "100,000 evaluations",
        "2,000,000 evaluations",
    ]


def test_axes_bands_seeds_and_legend(opened) -> None:
    def ticks(axis: str) -> list[str]:
        found = opened.find_elements("css selector", f"#charts figure:first-child .{axis}-tick")
        return [text for tick in found if (text := tick.text)]

    def drawn() -> dict[str, int]:
        return {
            kind: len(opened.find_elements("css selector", f"#charts .{kind}")) for kind in ("median", "band", "seed")
        }

    assert "10⁴" in ticks("x") and "10⁻¹" in ticks("y")
    opened.find_element("id", "log-x").click()
    assert "500,000" in ticks("x") and "10⁻¹" in ticks("y")
    opened.find_element("id", "log-y").click()
    assert "0" in ticks("y") and "10⁻¹" not in ticks("y")
    assert drawn() == {"median": 5, "band": 1, "seed": 0}
    opened.find_element("id", "seeds").click()
    choose(opened, "band", "none")
    assert drawn() == {"median": 5, "band": 0, "seed": 3}
    legend = opened.find_element("css selector", "#legend button[aria-pressed=true]")
    legend.click()
    assert legend.get_attribute("aria-pressed") == "false" and drawn()["median"] == 4


def test_one_variable_is_drawn_as_lines(opened) -> None:
    choose(opened, "map-system", "1")
    assert opened.find_elements("css selector", ".panel canvas") == []
    lines = "return [...document.querySelectorAll('.panel[data-kind=pmf] .median')].map((e) => e.getAttribute('d'))"
    first, second = opened.execute_script(lines)
    assert first != second and len(opened.find_elements("css selector", ".panel .true")) == 2


def test_a_run_opens_on_its_provenance(opened) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    opened.find_element("id", "run-filter").send_keys("umbrella")
    (entry,) = opened.find_elements("css selector", "#run-list details.run")
    entry.find_element("css selector", "summary").click()
    WebDriverWait(opened, 5).until(lambda _: "CPU" in entry.text)
    for part in (
        "weights have a heavy tail",
        "abc123 (with uncommitted changes)",
        "abacus",
        "−0.250 kT",
        "39,992",  # without 8 of the seeding
        "12.5 s",
        "diverged walker: 3 of 40",
    ):
        assert part in entry.text
    entry.find_elements("css selector", "details.raw > summary")[0].click()
    assert '"rate": 0.25' in entry.text


def test_a_hostile_record_is_shown_as_text(browser, tmp_path, write_run) -> None:
    write_run(
        tmp_path, HOSTILE, HOSTILE, np.ones((60, 50)), preset=HOSTILE, folder="hostile", config={HOSTILE: HOSTILE},
        diagnostics={"warnings": [HOSTILE]}, provenance={"cpu": HOSTILE, "packages": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    path = tmp_path / "report.html"
    path.write_text(report([tmp_path])[0], encoding="utf-8")
    load(browser, path)
    for summary in browser.find_elements("css selector", "#run-list summary"):
        summary.click()
    assert HOSTILE in hover(browser, ".panel canvas")
    assert column(browser, "method") == [HOSTILE]
    assert HOSTILE in browser.find_element("css selector", "#run-list .warnings").text
    assert (
        browser.find_elements("css selector", "img") == [] and len(browser.find_elements("css selector", "script")) == 2
    )
    assert browser.execute_script("return window.hacked === undefined") and browser.get_log("browser") == []


def test_without_the_system_the_page_still_works(browser, tmp_path, write_run) -> None:
    p = np.exp(-np.random.default_rng(3).uniform(0.0, 9.0, (60, 50)))
    write_run(tmp_path, "maze", "md", p, curve=[(500, 0.1)])
    (write_run(tmp_path, "maze", "torn", np.ones((60, 50))) / "pmf.npz").unlink()
    path = tmp_path / "report.html"
    path.write_text(report([tmp_path])[0], encoding="utf-8")
    load(browser, path)
    assert browser.get_log("browser") == []
    assert len(browser.find_elements("css selector", "#charts g.m0 > circle:not(.dot)")) == 1  # a curve of one point
    sides = browser.find_element("id", "sides").text
    assert "No error map: unknown system 'maze'" in sides and "This run has no pmf.npz." in sides
    assert len(browser.find_elements("css selector", ".panel[data-kind=pmf]")) == 1
    assert "CV 1 = " in hover(browser, ".panel canvas")
