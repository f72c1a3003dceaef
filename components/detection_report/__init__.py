"""An HTML report on whether a model may ship and what is wrong with it.

`report` is the entry point: it gathers facts (`pictures`, `gallery`, `training_curves`,
`statistics`, and confusion, score thresholds and error types from `metrics`) and renders
report.html with `charts`.
"""
