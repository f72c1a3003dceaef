"""Detection metrics in plain numpy.

`accumulator` collects ground truth and detections; `voc` and `coco` score them, `object_slices`
scores some of the objects, `error_types` says what the mistakes cost, `confusion` which class is
taken for which, and `outcomes` keeps matched pictures small. `voc_map` is a command that scores
detection files.
"""
