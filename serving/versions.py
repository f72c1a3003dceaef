"""Versions of a model: `BASE/<number>/saved_model.pb`, the highest number being the newest.

python -m serving.versions BASE                                      list them
python -m serving.versions BASE promote 7 --config models.config     the label stable names 7
python -m serving.versions BASE promote 8 --label canary --config models.config
python -m serving.versions BASE rollback --config models.config      stable: one version back
python -m serving.versions BASE keep 3 --config models.config        delete older, unlabelled ones

A server that polls its configuration follows (--model_config_file_poll_wait_seconds); it needs
--allow_version_labels_for_unavailable_models, since a version and its label come at once.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from data.console import quiet
from data.errors import DataError

_SAVED_MODEL = "saved_model.pb"
_HIGHEST = 2**63 - 1


def version_folders(base: Path) -> dict[int, Path]:
    """The version folders in a model's base folder by number, ascending.

    What is not a number is no version (a push under a temporary name, for one). Raises DataError
    where the base folder is missing.
    """
    if not base.is_dir():
        raise DataError(f"{base}: no such folder. Give the folder that models are pushed to.")
    numbered = (f for f in base.iterdir() if f.name.isascii() and f.name.isdigit() and f.is_dir())
    return dict(sorted((int(f.name), f) for f in numbered if int(f.name) <= _HIGHEST))


def newest_version(folder: Path) -> Path:
    """The folder itself if it is a SavedModel, else its highest version that is one.

    Raises DataError where there is no model.
    """
    if (folder / _SAVED_MODEL).is_file():
        return folder
    for version in reversed(version_folders(folder).values()):
        if (version / _SAVED_MODEL).is_file():
            return version
    raise DataError(
        f"{folder}: no model in it ({_SAVED_MODEL}, or numbered folders that hold one). "
        "Give the folder a pipeline pushed to."
    )


def promote(base: Path, config: Path, model: str, version: int, label: str) -> None:
    """Points a label of the model at a version, and has exactly the labelled versions served.

    Raises DataError where the version is not a complete one, or the model not in the config.
    """
    from serving.model_config import read_config, write_config

    folder = version_folders(base).get(version)
    if folder is None or not (folder / _SAVED_MODEL).is_file():
        raise DataError(
            f"{base}: version {version} is not there, or has no {_SAVED_MODEL}. "
            f"There are: {', '.join(map(str, version_folders(base))) or 'none'}."
        )
    server = read_config(config)
    entry = _entry(server, config, model)
    entry.version_labels[label] = version
    entry.model_version_policy.specific.versions[:] = sorted(set(entry.version_labels.values()))
    write_config(config, server)


def rollback(base: Path, config: Path, model: str, label: str) -> int:
    """Points a label at the next lower complete version, and returns it. Raises DataError."""
    labels = read_labels(config, model)
    if label not in labels:
        raise DataError(
            f"{config}: model {model} has no label {label}. Promote a version to it first."
        )
    lower = [
        number
        for number, folder in version_folders(base).items()
        if number < labels[label] and (folder / _SAVED_MODEL).is_file()
    ]
    if not lower:
        raise DataError(f"{base}: no version below {labels[label]} to roll back to.")
    promote(base, config, model, lower[-1], label)
    return lower[-1]


def keep(base: Path, count: int, labelled: Mapping[str, int]) -> list[int]:
    """Deletes all but the newest `count` versions and those with a label; returns the deleted.

    A version loses its number before its files go: no server sees half of it.
    """
    folders = version_folders(base)
    doomed = [number for number in list(folders)[:-count] if number not in labelled.values()]
    for number in doomed:
        deleted = folders[number].rename(base / f"deleted-{number}")
        shutil.rmtree(deleted)
    return doomed


def read_labels(config: Path | None, model: str) -> dict[str, int]:
    """The model's labels in a `models.config`; none without one."""
    if config is None:
        return {}
    from serving.model_config import read_config

    return dict(_entry(read_config(config), config, model).version_labels)


def describe(base: Path, labelled: Mapping[str, int]) -> list[str]:
    """A line for each version, the newest first: number, time, size, preset, labels."""
    lines = []
    for number, folder in reversed(version_folders(base).items()):
        files = [file for file in folder.rglob("*") if file.is_file()]
        size = sum(file.stat().st_size for file in files) / 1e6
        pushed = time.strftime("%Y-%m-%d %H:%M", time.localtime(folder.stat().st_mtime))
        about = folder / "assets.extra" / "model.json"
        preset = json.loads(about.read_text()).get("preset", "") if about.is_file() else ""
        labels = ", ".join(label for label, version in labelled.items() if version == number)
        state = "" if (folder / _SAVED_MODEL).is_file() else f"no {_SAVED_MODEL}"
        notes = "  ".join(note for note in (preset, labels, state) if note)
        lines.append(f"{number:>12}  {pushed}  {size:8.1f} MB  {notes}".rstrip())
    return lines


def _entry(server, config: Path, model: str):
    for entry in server.model_config_list.config:
        if entry.name == model:
            return entry
    names = ", ".join(entry.name for entry in server.model_config_list.config) or "none"
    raise DataError(f"{config}: no model {model} (found: {names}). Name one with --model.")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="folder of the model's versions")
    parser.add_argument(
        "action", nargs="?", choices=["list", "promote", "rollback", "keep"], default="list"
    )
    parser.add_argument("number", nargs="?", type=int, help="the version, or how many to keep")
    parser.add_argument("--config", type=Path, help="models.config that holds the labels")
    parser.add_argument("--model", help="name of the model in it (default: BASE's last part)")
    parser.add_argument("--label", default="stable")
    args = parser.parse_args()
    if args.action in ("promote", "rollback") and args.config is None:
        parser.error(f"{args.action} needs --config")
    if args.action in ("promote", "keep") and (args.number is None or args.number < 1):
        parser.error(f"{args.action} needs a number, 1 or more")
    quiet()
    model = args.model or args.base.resolve().name
    try:
        if args.action == "promote":
            promote(args.base, args.config, model, args.number, args.label)
            print(f"{model}: {args.label} is version {args.number}")
        elif args.action == "rollback":
            version = rollback(args.base, args.config, model, args.label)
            print(f"{model}: {args.label} is version {version}")
        elif args.action == "keep":
            deleted = keep(args.base, args.number, read_labels(args.config, model))
            print(f"deleted: {', '.join(map(str, deleted)) or 'none'}")
        else:
            lines = describe(args.base, read_labels(args.config, model))
            print("\n".join(lines) or f"{args.base}: no versions")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
