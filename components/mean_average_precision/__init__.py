"""Average precision of object detectors: a mergeable accumulator in numpy and its TFMA metric.

`accumulator` collects ground truth and detections; `voc` and `coco` score them, `object_slices`
scores some of the objects, `error_types` says what the mistakes cost and `outcomes` keeps matched
pictures small. `tfma_metric` is all that inside TensorFlow Model Analysis, reads its records and
answers through `tfma_inputs`, and has pictures sliced by `picture_slices`: these are the only parts
that import TensorFlow.
"""
