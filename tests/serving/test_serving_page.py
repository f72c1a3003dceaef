"""The page in headless Chromium."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from serving.drawing import class_colour

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = browser.new_page()
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(server.url + "/")
    yield page
    page.close()
    assert faults == []


def _show(page, path) -> str:
    page.set_input_files("#file", path)
    page.wait_for_function("/ms$/.test(document.getElementById('status').textContent)")
    return page.inner_text("#status")


def _canvas(page) -> np.ndarray:
    """The canvas' pixels, uint8 [height, width, 4]."""
    data, width, height = page.evaluate(
        """() => {
          const c = document.getElementById("canvas");
          const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          return [Array.from(d), c.width, c.height];
        }"""
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


def test_a_chosen_picture_shows_boxes_names_and_latency(page, picture):
    assert page.locator("#model option").all_inner_texts() == ["blobs", "sleeper", "adder"]
    assert re.fullmatch(r"2 of 2 objects shown · \d+ ms", _show(page, picture))
    rows = page.locator("#found tbody tr").all_inner_texts()
    assert sorted(row.split()[0] for row in rows) == ["blue", "red"]
    pixels = _canvas(page)
    assert pixels.shape == (200, 400, 4), "small pictures are enlarged"
    edge = pixels[round(0.6 * 200), round(0.5 * 400)][:3].astype(int)
    assert np.abs(edge - class_colour("blue")).max() <= 2


def test_the_slider_hides_what_scores_less_without_asking_again(page, picture, tmp_path):
    half = np.array(Image.open(picture))
    half[10:50:2, 10:60] = 90  # half of red's pixels: the model scores it 0.5
    Image.fromarray(half).save(tmp_path / "half.png")
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    assert _show(page, tmp_path / "half.png").startswith("2 of 2")
    page.fill("#threshold", "0.75")
    assert page.inner_text("#threshold-value") == "0.75"
    assert page.inner_text("#status").startswith("1 of 2 objects shown")
    page.fill("#threshold", "0.2")
    assert page.inner_text("#status").startswith("2 of 2 objects shown")
    assert len([url for url in requests if url.endswith(":predict")]) == 1


def test_a_dropped_picture(page, picture):
    page.evaluate(
        """async (bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
          document.getElementById("drop").dispatchEvent(
            new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        list(picture.read_bytes()),
    )
    page.wait_for_function("/ms$/.test(document.getElementById('status').textContent)")
    assert page.inner_text("#status").startswith("2 of 2")


def test_a_picture_with_exif_rotation_is_shown_as_the_model_sees_it(page, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(picture).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    _show(page, tmp_path / "turned.jpg")
    pixels = _canvas(page)
    assert pixels.shape[:2] == (200, 400)
    assert (pixels[60, 100, :3] > [200, -1, -1]).all(), "red where it is stored"


def test_errors_are_shown(page, picture, tmp_path):
    page.select_option("#model", "adder")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#status.error")
    assert "where a float32 is expected" in page.inner_text("#status")
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_function("document.getElementById('status').textContent.includes('text.png')")
    assert "not a picture" in page.inner_text("#status")
