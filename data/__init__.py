"""Reading VOC and COCO, record fields, conversion to TFRecord, the sample set, schemas."""
