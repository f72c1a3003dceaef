"""What a Beam worker process imports before it works, as `--beam_plugin` tells it to.

Several workers share a machine with each other and with a training. Each takes one core, and none
takes a GPU: TensorFlow would reserve its whole memory in the first process that looks at it.
Importing this changes the environment of the process, so nothing else does.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
os.environ["TF_NUM_INTRAOP_THREADS"] = "1"
os.environ["TF_NUM_INTEROP_THREADS"] = "1"
