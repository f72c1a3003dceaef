"""Strategies for pictures with objects of all sizes and flags, and detections on and near them."""

from hypothesis import strategies as st

from metrics.accumulator import DetectionAccumulator

CLASSES = ("cat", "dog")
SIDES = (8, 31, 32, 33, 95, 96, 97, 150)  # around the limits of COCO's sizes

BOXES = st.builds(
    lambda y, x, height, width: (y, x, y + height, x + width),
    *[st.sampled_from((0, 3, 40))] * 2,
    *[st.sampled_from(SIDES)] * 2,
)
TRUTH = st.tuples(st.sampled_from(CLASSES), BOXES, st.booleans(), st.booleans(), st.booleans())
FOUND = st.tuples(st.sampled_from(CLASSES), BOXES, st.sampled_from([0.2, 0.5, 0.8]))
PICTURES = st.lists(
    st.tuples(st.lists(TRUTH, max_size=4), st.lists(FOUND, max_size=6)), min_size=1, max_size=4
)


def accumulate(pictures, first=0):
    """Objects are (class, box, difficult, truncated, occluded).

    The first picture is number `first`.
    """
    accumulator = DetectionAccumulator(CLASSES)
    for number, (truth, found) in enumerate(pictures, start=first):
        names, boxes, difficult, truncated, occluded = (
            zip(*truth, strict=True) if truth else [()] * 5
        )
        found_names, found_boxes, scores = zip(*found, strict=True) if found else [()] * 3
        accumulator.add(
            f"p{number}",
            boxes,
            names,
            difficult,
            found_boxes,
            scores,
            found_names,
            gt_truncated=truncated,
            gt_occluded=occluded,
        )
    return accumulator
