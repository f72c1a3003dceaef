"""Names the source a component runs, so that a change of code re-runs what depends on it.

TFX refers to `run_fn` and `preprocessing_fn` by their module path and does not see them change;
a hash among a component's parameters makes the change part of its cache key.
"""

import hashlib
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent


def code_version(*paths: str) -> str:
    """Hash of the named files and folders of Python source, relative to the project's root."""
    digest = hashlib.sha256()
    for path in paths:
        whole = _ROOT / path
        for file in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
            digest.update(str(file.relative_to(_ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
