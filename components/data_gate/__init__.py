"""Stops runs whose data does not match the schema."""
