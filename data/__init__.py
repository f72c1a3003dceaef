"""VOC and COCO reading, record fields, conversion to TFRecord, the sample set and the schemas."""
