"""The detector: anchors, matching, loss, network, input pipeline, training and export."""
