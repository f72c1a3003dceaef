"""Asks a server for detections before a model is pushed to one."""
