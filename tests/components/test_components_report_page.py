"""The report in headless Chromium."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import ImageColor

from components.detection_report import charts
from components.detection_report.report import analyse, build_report, render
from components.mean_average_precision.metric_names import CURVE_RECALLS
from data.palette import class_colour
from tests.components.tfma_replay import CLASSES, PICTURES, accumulate

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

pytestmark = pytest.mark.slow  # a browser

NO_PICTURES = {"misses": [], "mistakes": [], "hits": []}
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


@pytest.fixture(scope="module")
def report(report_sources, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_report(report_sources), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=list(_QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a file; console messages and network requests fail the test."""
    contexts, faults = [], []

    def open_file(path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("file:", "data:")) or faults.append(r.url))
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def page(open_page, report):
    return open_page(report)


def _column(page, table, index):
    cells = page.locator(f"{table} tbody tr > :nth-child({index})")
    return cells.evaluate_all("cells => cells.map(cell => cell.dataset.value)")


def test_the_page_is_small_and_shows_the_evaluations_numbers(page, report, model_facts):
    assert report.stat().st_size < 10e6
    evaluation = model_facts["evaluation"]
    assert page.inner_text("#map") == f"{evaluation['map']['value']:.4f}"
    assert "Not blessed" in page.inner_text("#verdict")
    assert "pushed as /models/ssd/17" in page.inner_text("#verdict")
    assert "8 of 8 test pictures got the same detections" in page.inner_text("#verdict")
    shown = dict(zip(_column(page, "#ap-table", 1), _column(page, "#ap-table", 3), strict=True))
    for entry in evaluation["classes"]:
        value = entry["ap"]["value"]
        assert shown[entry["name"]] == ("" if value is None else str(value))
    assert page.locator("#verdict tbody tr", has_text="AP/cat").inner_text().startswith("✗ no")
    assert "a<b>" in page.inner_text("#data"), "what the gate found, as text"
    assert page.title() == "Not blessed: pets"
    assert page.inner_text("h1") == "Detection report: pets"
    assert "2 of 50 pictures: the picture is damaged (2)" in page.inner_text("#data")
    assert page.locator(".warn").count() == 0, "the detections are the evaluated ones"


def test_curves_equal_the_evaluations(page, model_facts):
    height = charts.HEIGHT - charts.TOP - charts.BOTTOM
    width = charts.WIDTH - charts.LEFT - charts.RIGHT
    for entry in model_facts["evaluation"]["classes"][:3]:
        lines = page.locator(f'#curves [data-class="{entry["name"]}"] polyline')
        drawn = [
            np.array([point.split(",") for point in points.split()], float)
            for points in lines.evaluate_all("all => all.map(line => line.getAttribute('points'))")
        ]
        for points, curve in zip(drawn, (entry["baseline_curve"], entry["curve"]), strict=True):
            recall = (points[:, 0] - charts.LEFT) / width
            precision = 1 - (points[:, 1] - charts.TOP) / height
            np.testing.assert_allclose(recall, CURVE_RECALLS, atol=1e-4)
            np.testing.assert_allclose(precision, curve, atol=1e-4)


def test_classes_have_the_same_colour_in_tables_and_pictures(page):
    for class_id, name in enumerate(CLASSES, start=1):
        shown = page.locator(f'#ap-table th[data-value="{name}"] .swatch')
        assert shown.get_attribute("style") == f"background: {class_colour(class_id)}"
    box = page.locator(".gallery rect.hit", has_text="dog").first
    red, green, blue = ImageColor.getrgb(class_colour(2))
    assert box.evaluate("r => getComputedStyle(r).stroke") == f"rgb({red}, {green}, {blue})"


def test_the_table_sorts_with_mouse_and_keyboard(page):
    button = page.locator("#ap-table th button", has_text=re.compile("^AP$"))
    button.click()
    values = _column(page, "#ap-table", 3)
    assert values[-1] == "", "undefined is last"
    numbers = [float(value) for value in values[:-1]]
    assert numbers == sorted(numbers, reverse=True)
    button.press("Enter")
    assert [float(value) for value in _column(page, "#ap-table", 3)[:-1]] == sorted(numbers)
    assert _column(page, "#ap-table", 3)[-1] == ""
    page.locator("#ap-table th button", has_text="class").press("Space")
    assert _column(page, "#ap-table", 1) == sorted(CLASSES)


def test_pictures_enlarge_advance_and_close_with_the_keyboard(page):
    first = page.locator("#pictures .gallery button").first
    first.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    large, small = dialog.locator("svg").bounding_box(), first.bounding_box()
    assert large["width"] > 1.5 * small["width"]
    assert dialog.locator("svg image").get_attribute("href").startswith("data:image/jpeg")
    before = dialog.locator("p").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text() != before
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text() == before
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert first.evaluate("button => button === document.activeElement")


def test_the_explorer_shows_the_chosen_class_and_score(page):
    counts = analyse(accumulate(PICTURES))["explorer"]["dog"]
    page.select_option("#explorer-class", "dog")
    for index in (0, 35, 100):
        page.fill("#explorer-threshold", str(index / 100))
        found, wrong = counts["found"][index], counts["wrong"][index]
        assert page.inner_text("#explorer-found") == str(found)
        assert page.inner_text("#explorer-wrong") == str(wrong)
        assert page.inner_text("#explorer-missed") == str(counts["objects"] - found)
        precision = f"{found / (found + wrong):.3f}" if found + wrong else "–"
        assert page.inner_text("#explorer-precision") == precision
        assert page.inner_text("#explorer-recall") == f"{found / counts['objects']:.3f}"


def test_phones_need_no_sideways_scrolling_and_dark_mode_is_dark(open_page, report):
    page = open_page(report, viewport={"width": 360, "height": 740}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for part in ("#error-table", "#slices table", "#thresholds table", "#confusion"):
        table = page.locator(part)
        assert table.evaluate("t => t.parentElement.scrollWidth <= t.parentElement.clientWidth"), (
            part
        )
    red, *_ = map(int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).color")))
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert red > 180 and max(map(int, re.findall(r"\d+", back))) < 60


def test_a_confusion_matrix_of_twenty_classes_fits_a_desktop(open_page, plain, tmp_path):
    facts = plain()
    names = [f"class of number {number}" for number in range(20)]
    facts["model"]["classes"] = names
    found = analyse(accumulate(PICTURES)) | {"matrix": np.eye(21, dtype=int)}
    entry = facts["evaluation"]["classes"][0]
    facts["evaluation"]["classes"] = [entry | {"name": name, "curve": None} for name in names]
    found["positives"] = dict.fromkeys(names, 1)
    path = tmp_path / "report.html"
    path.write_text(render(facts, found, NO_PICTURES, curves={}, features={}), encoding="utf-8")
    page = open_page(path, viewport={"width": 1280, "height": 900})
    box = page.locator("#confusion").evaluate("t => [t.scrollWidth, t.parentElement.clientWidth]")
    assert box[0] <= box[1]
    head = page.locator("#confusion thead th").nth(10).bounding_box()
    assert head["height"] > 2 * head["width"], "upright"
    phone = open_page(path, viewport={"width": 360, "height": 740})
    place = phone.locator("#confusion").locator("..")
    place.evaluate("p => p.scrollTo(p.scrollWidth, 0)")
    label = phone.locator("#confusion tbody th").first.bounding_box()
    assert label["x"] >= place.bounding_box()["x"], "row names stay while scrolling"


def test_the_numbers_are_shown_without_scripts(open_page, report, model_facts):
    page = open_page(report, java_script_enabled=False)
    assert page.inner_text("#map") == f"{model_facts['evaluation']['map']['value']:.4f}"
    assert page.locator("#ap-table tbody tr").count() == len(CLASSES)
    assert page.locator("#curves polyline").count() == 6
    assert "Best threshold of each class" in page.inner_text("#thresholds")
    assert not page.locator("#explorer-class").is_visible()


def test_unmeasured_parts_are_left_out(open_page, plain, tmp_path):
    facts = plain()
    evaluation = facts["evaluation"]
    evaluation["slices"] = []
    evaluation["map"] |= {"baseline": None, "change": None, "value": None}
    for entry in evaluation["classes"]:
        entry["ap"] |= {"baseline": None, "change": None}
        entry["baseline_curve"] = None
    facts["model"]["classes"] = list(CLASSES)
    accumulator = accumulate([(*PICTURES[0][:4], *(part[:0] for part in PICTURES[0][4:]))])
    found = analyse(accumulator)
    html = render(facts, found, NO_PICTURES, curves={}, features={})
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    page = open_page(path)
    assert page.locator("#slices, #training").count() == 0
    assert "no blessed model to compare with" in page.inner_text("#verdict")
    assert "before" not in page.inner_text("#ap-table")
    assert page.inner_text("#verdict").count("not pushed") == 1


def test_a_different_map_than_the_evaluations_is_reported(plain):
    facts = plain()
    facts["evaluation"]["map"]["value"] -= 0.01
    found = analyse(accumulate(PICTURES))
    html = render(facts, found, NO_PICTURES, curves={}, features={})
    assert f"give an mAP of {found['map']:.4f}" in html
    assert json.loads(re.search(r'id="explorer-data">(.*?)</script>', html)[1]) == found["explorer"]


def test_a_blessed_model_that_fails_on_a_server_is_explained(plain):
    facts = plain() | {"blessed": True}
    found = analyse(accumulate(PICTURES))
    slow = {"problems": ["99 % of the requests took up to 900 ms"], "pictures": 8}
    for pushed, serving, explained in ((None, slow, True), ("/models/1", None, False)):
        html = render(
            facts, found, NO_PICTURES, curves={}, features={}, serving=serving, pushed=pushed
        )
        assert ("but the model was not pushed" in html) == explained
        assert ("requests took up to 900 ms" in html) == explained
