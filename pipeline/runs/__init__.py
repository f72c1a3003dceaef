"""Inspects the runs in ML Metadata: `ssd runs`.

`store` reads runs through ML Metadata's interface, `questions` answers what went into them and how
they differ, `tables` prints the answers. `outputs` is for a running pipeline.
"""
