"""Training on several hosts, as a Kubernetes Indexed Job."""
