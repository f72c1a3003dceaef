"""The GPU variant of the image, whose lock file is only for the image's Python."""

import importlib.metadata
import re

from packaging.requirements import Requirement


def test_the_gpu_variant_adds_tensorflows_cuda_requirements(root):
    wanted = {}
    for text in importlib.metadata.requires("tensorflow"):
        requirement = Requirement(text)
        if requirement.marker and requirement.marker.evaluate({"extra": "and-cuda"}):
            if requirement.marker.evaluate({"extra": ""}):
                continue
            wanted[requirement.name] = str(requirement.specifier)
    assert wanted
    lock = (root / "docker" / "requirements-gpu.lock").read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)(==\S+) \\\n((?:    --hash=sha256:\w{64}.*\n)+)", lock, re.M)
    assert {name: version for name, version, _ in entries} == wanted
