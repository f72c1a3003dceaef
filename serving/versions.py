"""Versions of a model: `BASE/<number>/saved_model.pb`, the highest number being the newest.

python -m serving.versions BASE                                      list them
python -m serving.versions BASE rollback --config models.config      stable: one version back
python -m serving.versions BASE promote 7 --config models.config     the label stable names 7
python -m serving.versions BASE promote 8 --label canary --config models.config
python -m serving.versions BASE latest --config models.config        serve the newest again
python -m serving.versions BASE keep 3 --config models.config        delete older ones not served

A server that polls its configuration follows (--model_config_file_poll_wait_seconds). It answers a
request without a label from the highest version that it serves. So moving a label up keeps the
version before, and rolling back is at once; moving it down drops the one above, and all who name no
label follow. A canary above stable is asked by them too: only clients that name stable are not.

From the first promotion or rollback on, new pushes are not served until they are promoted; `latest`
ends that, and with it the labels. TensorFlow Serving moves a label before a new version is loaded:
promote to canary first there, and to stable when that is served.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from data.console import quiet
from data.errors import DataError

STABLE = "stable"
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
    """Points a label of the model at a version.

    Served are then the labelled versions, and the one that the label leaves if that is lower.
    Raises DataError where the version is not a complete one, the model not in the config, or other
    labels would take the place of what is served before there is a stable version.
    """
    from serving.model_config import read_config, write_config

    complete = _complete_versions(base)
    if version not in complete:
        raise DataError(
            f"{base}: version {version} is not there, or has no {_SAVED_MODEL}. "
            f"There are: {', '.join(map(str, complete)) or 'none'}."
        )
    server = read_config(config)
    entry = _entry(server, config, model)
    if label != STABLE and STABLE not in entry.version_labels:
        raise DataError(
            f"{config}: model {model} has no label {STABLE}, and only what a label names would be "
            f"served besides {label}. Promote the version that clients get now to {STABLE} first."
        )
    left = entry.version_labels.get(label)
    entry.version_labels[label] = version
    served = {*entry.version_labels.values()}
    if left in complete and left < version:
        served.add(left)
    entry.model_version_policy.specific.versions[:] = sorted(served)
    write_config(config, server)


def rollback(base: Path, config: Path, model: str, label: str) -> int:
    """Points a label at the version served before, else the next lower one; returns it.

    Where there is no label yet, the newest version is served and is the one to leave.
    """
    labels, served = read_served(config, model)
    complete = _complete_versions(base)
    if not labels and label == STABLE and complete:
        labels = {STABLE: max(served, default=complete[-1])}
    if label not in labels:
        raise DataError(
            f"{config}: model {model} has no label {label}. Promote a version to it first."
        )
    lower = [number for number in complete if number < labels[label]]
    if not lower:
        raise DataError(f"{base}: no version below {labels[label]} to roll back to.")
    version = max(served.intersection(lower), default=lower[-1])
    promote(base, config, model, version, label)
    return version


def serve_latest(config: Path, model: str) -> None:
    """Lets the newest version be served, as it is before the first promotion; drops the labels."""
    from serving.model_config import read_config, write_config

    server = read_config(config)
    entry = _entry(server, config, model)
    entry.version_labels.clear()
    entry.model_version_policy.latest.num_versions = 1
    write_config(config, server)


def keep(base: Path, count: int, served: Collection[int]) -> list[int]:
    """Deletes all but the newest `count` versions and those served; returns the deleted.

    A version loses its number before its files go: no server sees half of it.
    """
    folders = version_folders(base)
    doomed = [number for number in list(folders)[:-count] if number not in served]
    for number in doomed:
        deleted = folders[number].rename(base / f"deleted-{number}")
        shutil.rmtree(deleted)
    return doomed


def read_served(config: Path | None, model: str) -> tuple[dict[str, int], set[int]]:
    """The model's labels in a `models.config`, and the versions it names; none without one."""
    if config is None:
        return {}, set()
    from serving.model_config import read_config

    entry = _entry(read_config(config), config, model)
    labels = dict(entry.version_labels)
    return labels, {*labels.values(), *entry.model_version_policy.specific.versions}


def _complete_versions(base: Path) -> list[int]:
    folders = version_folders(base)
    return [number for number, folder in folders.items() if (folder / _SAVED_MODEL).is_file()]


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


def _outcome(config: Path, model: str, label: str) -> str:
    """What a label names now, and what clients without one get where that is another version."""
    labels, served = read_served(config, model)
    lines = [f"{model}: {label} is version {labels[label]}"]
    highest = max(served)
    if highest != labels[STABLE]:
        names = ", ".join(sorted(name for name, number in labels.items() if number == highest))
        lines.append(f"requests without a label get version {highest}, which {names} names")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m serving.versions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("base", type=Path, metavar="BASE", help="folder of the model's versions")
    parser.add_argument(
        "action",
        nargs="?",
        choices=["list", "promote", "rollback", "latest", "keep"],
        default="list",
    )
    parser.add_argument("number", nargs="?", type=int, help="the version, or how many to keep")
    parser.add_argument("--config", type=Path, help="models.config that holds the labels")
    parser.add_argument("--model", help="name of the model in it (default: BASE's last part)")
    parser.add_argument("--label", default=STABLE, help="(default: %(default)s)")
    args = parser.parse_args()
    if args.action in ("promote", "rollback", "latest") and args.config is None:
        parser.error(f"{args.action} needs --config")
    if args.action in ("promote", "keep") and (args.number is None or args.number < 1):
        parser.error(f"{args.action} needs a number, 1 or more")
    quiet()
    model = args.model or args.base.resolve().name
    try:
        if args.action == "promote":
            promote(args.base, args.config, model, args.number, args.label)
            print(_outcome(args.config, model, args.label))
        elif args.action == "rollback":
            rollback(args.base, args.config, model, args.label)
            print(_outcome(args.config, model, args.label))
        elif args.action == "latest":
            serve_latest(args.config, model)
            print(f"{model}: the newest version is served, without labels")
        elif args.action == "keep":
            deleted = keep(args.base, args.number, read_served(args.config, model)[1])
            print(f"deleted: {', '.join(map(str, deleted)) or 'none'}")
        else:
            lines = describe(args.base, read_served(args.config, model)[0])
            print("\n".join(lines) or f"{args.base}: no versions")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
