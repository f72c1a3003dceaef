"""The detection metrics of `metrics` inside TensorFlow Model Analysis.

`tfma_metric` is the metric. It collects and scores pictures with `tfma_scoring`, under the names in
`metric_names`. `picture_slices` slices them.
"""
