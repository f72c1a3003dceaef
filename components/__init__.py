"""Custom TFX components and the detection metric."""
