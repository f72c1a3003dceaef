"""Names of what a training writes, shared with its readers."""

# In `model_run`, read by the command line and the report.
SUMMARY = "summary.json"
# Among `model_run`'s checkpoints, if weights were chosen on the eval split.
BEST_FILE = "best.npz"
# The attribute of the SavedModel that holds the network's weights by name.
WEIGHTS = "weights"
# What servers call the model.
MODEL_NAME = "ssd"
