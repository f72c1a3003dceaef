"""Names in an exported model, shared by export, serving and evaluation."""

SAVED_MODEL_FILE = "saved_model.pb"
# What the model is, as JSON: preset, input size, hash of the anchors, classes, versions.
IDENTITY = "assets.extra/model.json"
# The model card's facts, pushed with the model.
FACTS = "assets.extra/facts.json"
# Where TensorFlow Serving looks for requests to run while it loads the model.
WARM_UP_REQUESTS = "assets.extra/tf_serving_warmup_requests"

# The signatures, with the inputs `image_bytes`, `images` and `examples`.
DEFAULT_SIGNATURE = "serving_default"
TENSOR_SIGNATURE = "serving_tensor"
EXAMPLES_SIGNATURE = "serving_examples"

# The outputs of every signature, after the batch axis; rows from COUNT on are padding.
BOXES = "detection_boxes"  # float32 [max_detections, 4]: ymin, xmin, ymax, xmax in [0, 1]
SCORES = "detection_scores"  # float32 [max_detections], descending
CLASSES = "detection_classes"  # int64 [max_detections], from 1
CLASS_NAMES = "detection_class_names"  # string [max_detections]
COUNT = "num_detections"  # int64 []
OUTPUTS = (BOXES, SCORES, CLASSES, CLASS_NAMES, COUNT)
