"""The page in headless Chromium."""

import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import rgb_of

playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")

pytestmark = pytest.mark.slow  # a browser


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
    """The canvas's pixels, uint8 [height, width, 4]."""
    data, width, height = page.evaluate(
        """() => {
          const c = document.getElementById("canvas");
          const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          return [Array.from(d), c.width, c.height];
        }"""
    )
    return np.array(data, np.uint8).reshape(height, width, 4)


@pytest.mark.slow
def test_a_chosen_picture_shows_boxes_names_and_latency(page, picture):
    assert page.locator("#model option").all_inner_texts() == ["blobs", "sleeper", "adder"]
    assert re.fullmatch(r"2 of 2 objects shown · \d+ ms", _show(page, picture))
    rows = page.locator("#found tbody tr").all_inner_texts()
    assert sorted(row.split()[0] for row in rows) == ["blue", "red"]
    pixels = _canvas(page)
    assert pixels.shape == (200, 400, 4), "small pictures are enlarged"
    edge = pixels[round(0.6 * 200), round(0.5 * 400)][:3].astype(int)
    assert np.abs(edge - rgb_of("blue")).max() <= 2


def test_the_slider_hides_detections_without_another_request(page, half_red):
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    assert _show(page, half_red).startswith("2 of 2")
    page.fill("#threshold", "0.75")
    assert page.inner_text("#threshold-value") == "0.75"
    assert page.inner_text("#status").startswith("1 of 2 objects shown")
    page.fill("#threshold", "0.2")
    assert page.inner_text("#status").startswith("2 of 2 objects shown")
    assert len([url for url in requests if url.endswith(":predict")]) == 1


@pytest.fixture
def half_red(picture, tmp_path):
    """The picture with half of red's pixels grey: the model scores red 0.5 and blue 1."""
    half = np.array(Image.open(picture))
    half[10:50:2, 10:60] = 90
    Image.fromarray(half).save(tmp_path / "half.png")
    return tmp_path / "half.png"


@pytest.fixture
def recommend(blob_model):
    """Sets the thresholds that the newest version's report recommends."""
    facts = blob_model / "20" / "assets.extra" / "facts.json"
    facts.parent.mkdir(exist_ok=True)

    def write(**by_class):
        classes = [{"name": name, "score_threshold": by_class[name]} for name in by_class]
        facts.write_text(json.dumps({"evaluation": {"classes": classes}}))

    yield write
    facts.unlink()


def test_the_page_shows_model_and_version(page):
    page.wait_for_function("document.getElementById('served').textContent")
    assert page.inner_text("#served") == "blobs, version 20"
    assert page.locator("#recommended-choice").is_hidden(), "no report, nothing to recommend"
    page.select_option("#model", "adder")
    page.wait_for_function("/adder/.test(document.getElementById('served').textContent)")
    assert page.inner_text("#served") == "adder, version 2"


def test_recommended_thresholds_apply_until_the_slider_moves(page, half_red, recommend):
    # Red's score is below its threshold; blue has none, so the default shows it.
    recommend(red=0.6, blue=None)
    page.reload()
    page.wait_for_selector("#recommended:checked")
    assert page.get_attribute("#recommended-choice", "title") == "red 0.60"
    assert _show(page, half_red).startswith("1 of 2")
    assert page.locator("#found tbody tr").inner_text().split()[0] == "blue"
    page.fill("#threshold", "0.2")
    assert not page.is_checked("#recommended")
    assert page.inner_text("#status").startswith("2 of 2")
    page.check("#recommended")
    assert page.inner_text("#status").startswith("1 of 2")
    page.select_option("#model", "sleeper")
    page.wait_for_selector("#recommended-choice", state="hidden")
    assert page.inner_text("#status").startswith("2 of 2"), "back to the slider"


def test_a_new_version_brings_its_thresholds(page, picture, half_red, recommend):
    page.wait_for_function("document.getElementById('served').textContent")
    recommend(red=0.6)
    _show(page, picture)
    assert page.locator("#recommended-choice").is_hidden(), "asked once per version"
    state = {"version": "21", "state": "AVAILABLE"}
    body = json.dumps({"model_version_status": [state]})
    page.route("**/v1/models/blobs", lambda route: route.fulfill(body=body))
    page.route(
        "**/versions/21",
        lambda route: route.fulfill(body='{"default": 0.5, "by_class": {"red": 0.6}}'),
    )
    _show(page, half_red)
    page.wait_for_selector("#recommended:checked")
    assert page.inner_text("#served") == "blobs, version 21"
    assert page.inner_text("#status").startswith("1 of 2")


def test_without_recommendations_the_slider_applies(page, half_red, recommend):
    recommend(red=0.6)  # TensorFlow Serving does not know the page's paths
    page.route("**/page/**", lambda route: route.fulfill(status=404, body="<h1>Not Found</h1>"))
    page.reload()
    assert _show(page, half_red).startswith("2 of 2")
    assert page.inner_text("#served") == "blobs, version 20"
    assert page.locator("#recommended-choice").is_hidden()


@pytest.mark.parametrize("place", ["#drop", "h1", "body"])
def test_a_picture_dropped_anywhere(page, picture, place):
    page.evaluate(
        """async ([bytes, place]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "a.png", {type: "image/png"}));
          const dropped = type =>
            new DragEvent(type, {dataTransfer: transfer, bubbles: true, cancelable: true});
          // Unless both are handled, the browser opens the file.
          for (const type of ["dragover", "drop"])
            if (document.querySelector(place).dispatchEvent(dropped(type))) throw new Error(type);
        }""",
        [list(picture.read_bytes()), place],
    )
    page.wait_for_function("/ms$/.test(document.getElementById('status').textContent)")
    assert page.inner_text("#status").startswith("2 of 2")


def test_a_picture_rotated_by_exif_is_sent_and_shown_upright(page, picture, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    # Stored on its side; the tag turns it upright.
    stored = Image.open(picture).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert _show(page, tmp_path / "turned.jpg").startswith("2 of 2")
    pixels = _canvas(page)
    assert pixels.shape[:2] == (200, 400)
    assert (pixels[60, 100, :3] > [200, -1, -1]).all(), "red's place in the upright picture"
    rows = page.locator("#found tbody tr").all_inner_texts()
    boxes = {row.split()[0]: [float(n) for n in re.findall(r"\d\.\d{3}", row)[1:]] for row in rows}
    _show(page, picture)
    for row in page.locator("#found tbody tr").all_inner_texts():
        expected = [float(n) for n in re.findall(r"\d\.\d{3}", row)[1:]]
        assert boxes[row.split()[0]] == pytest.approx(expected, abs=0.03)


def test_errors_are_shown(page, picture, tmp_path):
    page.select_option("#model", "adder")
    page.set_input_files("#file", picture)
    page.wait_for_selector("#status.error")
    assert "where a float32 is expected" in page.inner_text("#status")


def test_a_file_that_is_not_a_picture_removes_the_old_one(page, picture, tmp_path):
    _show(page, picture)
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#status.error")
    assert page.inner_text("#status") == "text.png is not a picture this browser can read."
    assert page.locator("canvas").is_hidden() and page.locator("#found").is_hidden()
    assert page.locator("#hint").is_visible()
    _show(page, picture)
    assert page.locator("canvas").is_visible() and page.locator("#hint").is_hidden()


def test_an_unreachable_server_gets_a_plain_message(page, picture, tmp_path):
    page.route("**/*:predict", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#file", picture)
    page.wait_for_selector("#status.error")
    assert page.inner_text("#status").startswith("The server cannot be reached.")
    page.unroute("**/*:predict")
    assert _show(page, shutil.copy(picture, tmp_path / "again.png")).startswith("2 of 2")


def _luminance(colour) -> float:
    """WCAG 2.1's relative luminance of an RGB colour in 0-255."""
    share = np.array(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_errors_stand_out_from_the_background(browser, server, tmp_path, scheme):
    page = browser.new_page(color_scheme=scheme)
    page.goto(server.url + "/")
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#file", tmp_path / "text.png")
    page.wait_for_selector("#status.error")
    text = page.evaluate("getComputedStyle(document.getElementById('status')).color")
    colour = [int(part) for part in re.findall(r"\d+", text)][:3]
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    low, high = sorted(map(_luminance, (colour, shot.getpixel((1, 1)))))
    assert (high + 0.05) / (low + 0.05) >= 4.5
