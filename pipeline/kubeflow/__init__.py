"""The pipeline on Kubeflow Pipelines 2 and Vertex AI.

`compile` turns the pipeline into a document, which `document` makes fit for them; `entrypoint` is
what runs in the containers, `parameters` what can be chosen when a run starts, `client` submits.
"""
