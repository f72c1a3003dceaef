"""Average precision of object detectors: a mergeable accumulator in numpy and its TFMA metric.

`accumulator` collects ground truth and detections; `voc` and `coco` score them, `object_slices`
scores some of the objects, `error_types` says what the mistakes cost and `outcomes` keeps matched
pictures small. `tfma_metric` is all that inside TensorFlow Model Analysis: it reads records and
answers by `tfma_inputs`, collects and scores them by `tfma_scoring` under `metric_names`, and has
pictures sliced by `picture_slices`. What begins with `tfma`, and the slicing, is all that imports
TensorFlow.
"""
