"""One HTML file that says whether a model may ship and what is wrong with it.

`report` is the way in: it gathers facts (`detections`, `gallery`, `training_curves`, `statistics`,
and of `metrics` confusion, score thresholds and error types) and renders report.html with the
charts of `charts`.
"""
