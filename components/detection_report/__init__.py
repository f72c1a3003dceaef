"""One HTML file that says whether a model may ship and what is wrong with it.

`report` is the way in: it gathers facts (`detections`, `confusion`, `score_thresholds`, `gallery`,
`training_curves`, `statistics`) and renders report.html with the charts of `charts`.
"""
