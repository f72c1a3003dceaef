"""The pipeline on Kubeflow Pipelines 2 and Vertex AI.

`compile` turns the pipeline into a document, which `document` adapts to them; `entrypoint` runs in
the containers, `parameters` holds what a run can set, and `client` submits.
"""
