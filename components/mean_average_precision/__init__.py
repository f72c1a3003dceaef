"""Average precision of object detectors: a mergeable accumulator in numpy and its TFMA metric.

`accumulator` collects ground truth and detections, `voc` scores them by the Pascal VOC rules,
`tfma_metric` does both inside TensorFlow Model Analysis. Only the last one imports TensorFlow.
"""
