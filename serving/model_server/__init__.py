"""A model server with TensorFlow Serving's REST and gRPC API; `serving/server.py` starts it."""
