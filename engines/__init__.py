"""Flink and Spark on this machine, to try Beam on."""
