"""Average precision of object detectors: a mergeable accumulator in numpy and its TFMA metric.

`accumulator` collects ground truth and detections; `voc` and `coco` score them, `error_types` says
what the mistakes cost; `tfma_metric` is VOC's score inside TensorFlow Model Analysis and the only
part that imports TensorFlow.
"""
