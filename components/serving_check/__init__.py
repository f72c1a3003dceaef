"""Checks a model on a server before it is pushed."""
