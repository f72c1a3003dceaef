import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from data.errors import DataError
from data.palette import class_colour
from serving.drawing import draw_detections, open_picture

# The id of a class with a dark colour, whose text is white.
_BLUE = 3
_RGB = np.array(ImageColor.getrgb(class_colour(_BLUE)))


def test_the_box_is_drawn_on_its_outermost_pixels():
    drawing = draw_detections(
        Image.new("RGB", (800, 400), "white"), [[0.5, 0.25, 0.75, 0.5]], [_BLUE], ["dog"], [0.9]
    )
    pixels = np.asarray(drawing)
    colour = _RGB
    for row in (200, 299):
        assert (pixels[row, 200:400] == colour).all()
    for column in (200, 399):
        assert (pixels[200:300, column] == colour).all()
    assert (pixels[300] != colour).any(-1).all()
    assert (pixels[:, 400:] != colour).any(-1).all()
    assert (pixels[210:290, 210:390] == 255).all(), "the inside of the box is not covered"


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0, 0.9, 0.05, 1), (0.95, 0.95, 1, 1)])
def test_the_label_is_entirely_inside_the_picture(box):
    name = "diningtable"
    size = (500, 375)
    middle = draw_detections(Image.new("RGB", size), [(0.5, 0.3, 0.9, 0.6)], [_BLUE], [name], [0.5])
    edge = draw_detections(Image.new("RGB", size), [box], [_BLUE], [name], [0.5])
    # The same text has the same pixels in its label, wherever the label is.
    assert _text_pixels(edge) == _text_pixels(middle) > 100


def _text_pixels(drawing):
    rows = np.asarray(drawing)
    return int(((rows != _RGB).any(-1) & (rows != 0).any(-1)).sum())


def test_labels_of_identical_boxes_do_not_overlap():
    image = Image.new("RGB", (500, 375))
    box = (0.3, 0.3, 0.7, 0.7)
    alone = _text_pixels(draw_detections(image, [box], [_BLUE], ["cat"], [0.9]))
    both = draw_detections(image, [box, box], [_BLUE] * 2, ["cat", "cat"], [0.9, 0.9])
    assert _text_pixels(both) == 2 * alone


@pytest.mark.parametrize("size", [(1, 1), (40, 30), (150, 299), (301, 2)])
def test_small_pictures_are_enlarged_by_a_whole_factor(size):
    drawing = draw_detections(Image.new("RGB", size), [(0, 0, 1, 1)], [1], ["a"], [1.0])
    factor = drawing.width // size[0]
    assert drawing.size == (size[0] * factor, size[1] * factor)
    assert 300 <= max(drawing.size) < 600


@settings(max_examples=30)
@given(
    st.lists(st.tuples(*[st.floats(allow_nan=True, width=32)] * 4), max_size=4),
    st.tuples(st.integers(1, 400), st.integers(1, 400)),
)
def test_any_box_can_be_drawn(boxes, size):
    image = Image.new("RGB", size, "grey")
    before = image.tobytes()
    count = len(boxes)
    draw_detections(image, boxes, [1] * count, ["thing"] * count, [0.5] * count)
    assert image.tobytes() == before, "the input is not modified"


def test_without_detections_the_picture_is_unchanged():
    image = Image.effect_noise((320, 310), 60).convert("RGB")
    assert draw_detections(image, np.zeros((0, 4)), [], [], []).tobytes() == image.tobytes()


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="1 boxes, 1 ids, 2 names and 1 scores"):
        draw_detections(Image.new("RGB", (9, 9)), [(0, 0, 1, 1)], [1], ["a", "b"], [1.0])


def test_rotated_pictures_are_opened_upright(tmp_path):
    upright = Image.effect_noise((64, 32), 80).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(open_picture(tmp_path / "turned.png"), upright)


def test_a_16_bit_png_looks_as_it_does_to_the_model(tmp_path):
    import tensorflow as tf

    path = tmp_path / "deep.png"
    levels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(levels).save(path)
    seen_by_model = tf.io.decode_png(path.read_bytes(), channels=3).numpy()
    assert np.abs(np.asarray(open_picture(path)).astype(int) - seen_by_model).max() <= 1


def test_unreadable_pictures_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.jpg: no such picture"):
        open_picture(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(DataError, match=r"text\.jpg: not a readable picture"):
        open_picture(tmp_path / "text.jpg")
    Image.effect_noise((64, 64), 80).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.jpg: not a readable picture"):
        open_picture(tmp_path / "cut.jpg")
