"""Pictures of cats and dogs in an accumulator, and boxes that do not overlap."""

from metrics.accumulator import DetectionAccumulator

LEFT, MIDDLE, RIGHT = (0, 0, 10, 10), (0, 100, 10, 110), (0, 200, 30, 230)
CAT, DOG = 0, 1


def collect(*pictures):
    """pictures: (objects of (box, class, difficult), detections of (box, class, score))."""
    accumulator = DetectionAccumulator(("cat", "dog"))
    for number, (objects, found) in enumerate(pictures):
        accumulator.add(
            f"p{number}",
            [box for box, _, _ in objects],
            [name for _, name, _ in objects],
            [difficult for _, _, difficult in objects],
            [box for box, _, _ in found],
            [score for _, _, score in found],
            [name for _, name, _ in found],
        )
    return accumulator
