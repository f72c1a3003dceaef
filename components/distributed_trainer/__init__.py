"""Training on several hosts, as a TFJob of the Kubeflow Training Operator."""
