"""Detection metrics in plain numpy.

`accumulator` collects ground truth and detections. `voc` and `coco` score them: `voc_matching` and
`coco_matching` pair detections with objects, `matched` keeps what the VOC score needs of them, for
all objects and for slices of them (`object_slices`), and `average_precision` makes the number.
`error_types` says what the mistakes cost and `confusion` which class is taken for which. `voc_map`
is a command that scores detection files.
"""
