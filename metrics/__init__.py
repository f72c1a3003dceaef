"""Detection metrics in plain numpy.

`accumulator` collects ground truth and detections. `voc` and `coco` score them: `voc_matching` and
`coco_matching` pair detections with objects, `matched` keeps what the VOC score needs, for all
objects and for slices of them (`object_slices`), and `average_precision` computes the number.
`error_types` measures what each kind of mistake costs, `confusion` which classes are mistaken for
which, and `score_thresholds` how many detections are right above each score. `picture_reader` reads
records and models' answers, `detection_files` reads files in VOC's format, and `voc_map` is the
command that scores those.
"""
