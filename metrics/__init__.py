"""Detection metrics in plain numpy.

`accumulator` collects ground truth and detections. `voc` and `coco` score them: `voc_matching` and
`coco_matching` pair detections with objects, `matched` keeps what the VOC score needs of them, for
all objects and for slices of them (`object_slices`), and `average_precision` makes the number.
`error_types` says what the mistakes cost, `confusion` which class is mistaken for which, and
`score_thresholds` how many detections are right above each score. `picture_reader` reads records
and answers of models, `detection_files` files in VOC's format, and `voc_map` is the command that
scores those.
"""
