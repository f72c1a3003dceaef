"""The splits of a data set."""

TRAIN, EVAL, TEST = SPLITS = ("train", "eval", "test")
