"""Everything that runs a pushed SavedModel. Knows signatures, nothing of the training side."""
