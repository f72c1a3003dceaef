"""A picture's size against the stated one, and boxes against the picture."""

import pytest

from data.boxes_px import find_object_problems, settle_size
from data.problems import Unusable
from data.voc import Annotation, VocObject

_CLASSES = {"cat": 1, "dog": 2}


def _annotation(*boxes, size=(40, 36), name="dog"):
    objects = tuple(
        VocObject(name, box, False, False, False, number=number)
        for number, box in enumerate(boxes, start=1)
    )
    return Annotation("a.xml", "a.jpg", *size, objects)


def _problems(annotation, size=(40, 36), counts_from_1=True):
    return [
        (problem.kind, problem.text)
        for _, problem in find_object_problems(
            annotation, size, _CLASSES, counts_from_1=counts_from_1
        )
    ]


def _settle(annotation, size=(40, 36), swapped_sides=False, rescale=False):
    return settle_size(annotation, size, swapped_sides=swapped_sides, rescale=rescale)


@pytest.mark.parametrize("box", [(1, 1, 40, 36), (0.4, 1, 40.5, 36.9), (1, 1, 1, 1)])
def test_boxes_up_to_the_border_are_fine(box):
    assert _problems(_annotation(box)) == []


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((0, 1, 9, 9), "zero"),
        ((1, 0, 40, 36), "zero"),
        # Fractions of a pixel over the border are rounding on both sides.
        ((-0.2, 1, 40.3, 9), "zero"),
        ((0, 1, 41, 9), "outside"),
        ((1, -3, 9, 9), "outside"),
        ((1, 1, 41, 9), "outside"),
        ((1, 1, 9, 37), "outside"),
        ((41, 1, 40.9, 9), "outside"),
        ((0.1, 0.25, 0.4, 0.6), "relative"),
        ((0, 0.5, 1, 1), "relative"),
    ],
)
def test_bad_boxes_name_file_object_and_class(box, kind):
    ((found, text),) = _problems(_annotation((1, 1, 9, 9), box))
    assert found == kind
    assert text.startswith("a.xml: object 2 (dog): xmin ")
    assert text.endswith(" in 40 x 36 pixels")


def test_errors_show_the_pixels_in_the_file():
    # Its xmin of -2 is -1 counted from 1.
    ((kind, text),) = _problems(_annotation((-1, 1, 9, 9)), counts_from_1=False)
    assert (kind, "xmin -2, ymin 0, xmax 9" in text) == ("outside", True)


def test_an_unknown_class_gets_a_did_you_mean():
    ((kind, text),) = _problems(_annotation((1, 1, 9, 9), name="dgo"))
    assert (kind, text) == (
        "class",
        "a.xml: object 1 (dgo): not one of the 2 classes; did you mean dog?",
    )


@pytest.mark.parametrize(
    ("stated", "change"),
    [
        ((40, 36), ""),
        ((0, 36), "size not stated"),
        ((0, 0), "size not stated"),
        ((41, 35), "off by one pixel"),
    ],
)
def test_sizes_that_do_not_move_boxes(stated, change):
    annotation = _annotation((1, 1, 9, 9), size=stated)
    found, said = _settle(annotation)
    assert found.objects == annotation.objects
    assert said.count(change) and bool(said) == bool(change)


def test_a_box_may_extend_as_far_as_a_size_off_by_one():
    annotation = _annotation((1, 1, 41, 36), size=(41, 36))
    assert _problems(annotation) == []
    # But it may not lie entirely outside.
    assert [kind for kind, _ in _problems(_annotation((41, 1, 41, 9), size=(41, 36)))] == [
        "outside"
    ]


@pytest.mark.parametrize(("stated", "kind"), [((80, 72), "size"), ((36, 40), "turned")])
def test_boxes_for_another_size_are_refused(stated, kind):
    with pytest.raises(Unusable, match="states .* the picture has 40 x 36") as error:
        _settle(_annotation(size=stated))
    assert error.value.problem.kind == kind
    assert "Fix the size" not in str(error.value)


def test_swapped_sides_are_never_scaled():
    with pytest.raises(Unusable):
        _settle(_annotation(size=(36, 40)), rescale=True)
    # If a tag had swapped them, the user has already chosen --exif.
    annotation = _annotation((1, 1, 9, 9), size=(36, 40))
    found, said = _settle(annotation, swapped_sides=True)
    assert found.objects == annotation.objects
    assert "EXIF tag was handled" in said


def test_boxes_are_scaled_as_edges():
    found, said = _settle(_annotation((1, 3, 80, 4), size=(80, 72)), rescale=True)
    # Edges 0..80 and 2..4 become 0..40 and 1..2.
    assert found.objects[0].box_px == (1, 2, 40, 2)
    assert "scaled" in said
