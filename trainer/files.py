"""Names of what a training leaves, for those who read it."""

# In `model_run`, for the command line and the report.
SUMMARY = "summary.json"
# Among the checkpoints of `model_run`, where one was chosen on the eval split.
BEST_FILE = "best.npz"
# The attribute of the SavedModel that holds the network's weights by name.
WEIGHTS = "weights"
# What servers call the model.
MODEL_NAME = "ssd"
