"""The detection metrics of `metrics` inside TensorFlow Model Analysis.

`tfma_metric` is the metric: it reads records and answers by `tfma_inputs`, collects and scores them
by `tfma_scoring` under `metric_names`, and has pictures sliced by `picture_slices`.
"""
