"""What ML Metadata remembers of runs: `ssd runs`.

`store` reads runs through ML Metadata's own interface, `questions` answers what they were made of
and how they differ, `tables` prints the answers. `outputs` is for a pipeline that is running.
"""
