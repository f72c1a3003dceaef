"""What is in an exported model, for those who write it, serve it and measure it."""

SAVED_MODEL_FILE = "saved_model.pb"
# What the model is, as JSON: preset, input size, hash of the anchors, classes, versions.
IDENTITY = "assets.extra/model.json"
# Where TensorFlow Serving looks for requests to answer before a model counts as loaded.
WARM_UP_REQUESTS = "assets.extra/tf_serving_warmup_requests"

# The signatures by their inputs: `image_bytes`, `images` and `examples`.
DEFAULT_SIGNATURE = "serving_default"
TENSOR_SIGNATURE = "serving_tensor"
EXAMPLES_SIGNATURE = "serving_examples"

# Every signature answers these, with the batch in front; rows from COUNT on are padding.
BOXES = "detection_boxes"  # float32 [max_detections, 4]: ymin, xmin, ymax, xmax in [0, 1]
SCORES = "detection_scores"  # float32 [max_detections], falling
CLASSES = "detection_classes"  # int64 [max_detections], from 1
CLASS_NAMES = "detection_class_names"  # string [max_detections]
COUNT = "num_detections"  # int64 []
OUTPUTS = (BOXES, SCORES, CLASSES, CLASS_NAMES, COUNT)
