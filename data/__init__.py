"""VOC reading, record fields, conversion to TFRecord, the generated sample set and the schemas."""
