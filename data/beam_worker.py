"""Imported by each Beam worker process when it starts (`--beam_plugin`).

Several workers share a machine, possibly with a training. Each uses one core and no GPU: TensorFlow
reserves the GPU's whole memory in the first process that uses it. Importing this module changes the
environment of the process, so only workers import it.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
