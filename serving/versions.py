"""Lists, promotes, rolls back and deletes the versions of a model, BASE/<number>/.

ssd versions BASE
ssd versions BASE rollback --config models.config --url URL
ssd versions BASE promote 7 --config models.config --url URL
ssd versions BASE promote 8 --label canary --config models.config --url URL
ssd versions BASE latest --config models.config
ssd versions BASE keep 3 --config models.config

list (the default) shows the versions. rollback moves the label stable one
version back; promote moves it to the given version. latest drops the labels
and serves the newest version again. keep deletes all but the newest versions
and those served.

Servers must poll models.config (--model_config_file_poll_wait_seconds). A label
moves once the servers at --url (repeat it for each) have the new version in
service. Without --url the first call only makes them load it; repeat the call
with --loaded once all of them have.

A request without a label gets the highest version served. Promoting keeps the
previous version loaded, so rolling back is immediate; rolling back drops the
higher version. A canary above stable also gets the requests without a label.
After the first promotion or rollback, new pushes are not served until they are
promoted, or until `latest` drops the labels.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from data.command_line import Arguments, Parser, as_command
from data.console import quiet
from data.errors import DataError
from data.saved_model import FACTS, IDENTITY, SAVED_MODEL_FILE
from serving.version_folders import version_folders

STABLE = "stable"
_NOT_DONE = 1  # exit status


def keep(base: Path, count: int, served: Collection[int]) -> list[int]:
    """Deletes all but the newest `count` versions and those served; returns the deleted.

    A version is renamed before its files are deleted, so that no server sees half of it.
    """
    folders = version_folders(base)
    doomed = [number for number in list(folders)[:-count] if number not in served]
    for number in doomed:
        deleted = folders[number].rename(base / f"deleted-{number}")
        shutil.rmtree(deleted)
    return doomed


def describe(base: Path, labels: Mapping[str, int], served: Collection[int]) -> list[str]:
    """A heading and a line per version, newest first; empty without versions.

    The data column is the number of training pictures and the start of their fingerprint.
    """
    lines = []
    verdicts: dict[bool | None, str] = {True: "yes", False: "no"}
    for number, folder in reversed(version_folders(base).items()):
        facts = _read(folder / FACTS)
        data = _read(folder / IDENTITY).get("data", {})
        complete = (folder / SAVED_MODEL_FILE).is_file()
        notes = sorted(label for label, version in labels.items() if version == number)
        notes += ["served"] * (number in served) + ["incomplete"] * (not complete)
        columns = (
            str(number),
            time.strftime("%Y-%m-%d", time.localtime(folder.stat().st_mtime)),
            _interval(facts.get("evaluation", {}).get("map")),
            verdicts.get(facts.get("blessed"), ""),
            f"{data.get('train_records', '')} {data.get('train_fingerprint', '')[:4]}".strip(),
            ", ".join(notes),
        )
        lines.append(columns)
    if lines:
        lines.insert(0, ("version", "pushed", "mAP (95 % interval)", "blessed", "data", ""))
    return ["{:>10}  {:10}  {:19}  {:7}  {:10}  {}".format(*line).rstrip() for line in lines]


def _read(file: Path) -> dict:
    """One of the model's JSON files; empty if it is missing."""
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{file}: not JSON ({error}). Push the version again.") from error


def _interval(score: Mapping[str, float | None] | None) -> str:
    if not score or score.get("value") is None:
        return ""
    low, high = score.get("low"), score.get("high")
    interval = "" if low is None or high is None else f" ({low:.3f}-{high:.3f})"
    return f"{score['value']:.3f}{interval}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
    parser.add_argument("--model", help="the model's name in it (default: the name of BASE)")
    parser.add_argument("--label", default=STABLE, help="(default: %(default)s)")
    parser.add_argument(
        "--url", action="append", default=[], help="REST API of a server, http://HOST:8501"
    )
    parser.add_argument(
        "--loaded", action="store_true", help="all servers have the version in service"
    )
    parser.add_argument(
        "--timeout", type=float, default=300.0, help="seconds to wait for the servers at --url"
    )
    return parser


@as_command
def main(arguments: Arguments = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    if args.action in ("promote", "keep") and (args.number is None or args.number < 1):
        what = "of a version" if args.action == "promote" else "of versions"
        parser.error(f"{args.action} needs the number {what}, as in {args.action} 3")
    quiet()
    args.model = args.model or args.base.resolve().name
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    if args.action in ("promote", "rollback", "latest"):
        if not args.config:
            raise DataError(_needs_config(args))
        return _move(args)
    from serving.rollout import labels_and_served
    from serving.server_status import available_versions

    labels: dict[str, int] = {}
    wanted: list[int] = []
    if args.config:
        labels, wanted = labels_and_served(args.base, args.config, args.model)
    found = set().union(*(available_versions(url, args.model) for url in args.url))
    if args.action == "keep":
        deleted = keep(args.base, args.number, {*wanted, *labels.values(), *found})
        print(f"deleted: {', '.join(map(str, deleted)) or 'none'}")
    else:
        served = found if args.url else wanted
        print("\n".join(describe(args.base, labels, served)) or f"{args.base}: no versions")
    return 0


def _move(args: argparse.Namespace) -> int:
    """Promotes, rolls back, or returns to the newest version."""
    from serving.rollout import labels_and_served, promote, rollback, serve_latest
    from serving.server_status import available_versions, wait_until_available

    base, config, model, label = args.base, args.config, args.model, args.label
    if args.action == "latest":
        serve_latest(config, model)
        print(f"{model}: labels dropped, the newest version is served")
        return 0
    for url in args.url:
        available_versions(url, model)  # fails before anything changes

    def in_service(version: int, changed: bool) -> bool:
        if args.url:
            print(f"{model}: waiting for version {version} at {', '.join(args.url)}", flush=True)
            wait_until_available(args.url, model, version, changed, args.timeout)
            return True
        return args.loaded and not changed

    if args.action == "promote":
        version = args.number
        promote(base, config, model, version, label, in_service)
    else:
        version = rollback(base, config, model, label, in_service)
    labels, served = labels_and_served(base, config, model)
    if labels.get(label) != version:
        now = f"is still version {labels[label]}" if label in labels else "is not set yet"
        print(
            f"{model}: servers that read {config} now load version {version};\n"
            f"{label} {now}.\n"
            f"When all of them have version {version} in service, run\n\n"
            f"  ssd versions {base} promote {version} \\\n"
            f"    --label {label} --config {config} --model {model} --loaded\n\n"
            "or wait for that with --url http://HOST:8501."
        )
        return _NOT_DONE
    print(f"{model}: {label} is version {version}")
    highest = max(served)
    if highest != labels[STABLE]:
        names = ", ".join(sorted(name for name, number in labels.items() if number == highest))
        print(f"requests without a label get version {highest} ({names})")
    return 0


def _needs_config(args: argparse.Namespace) -> str:
    """The message: why labels cannot move without a models.config, and how to get one."""
    number = f" {args.number}" if args.action == "promote" else ""
    return f"""{args.action} needs --config, the models.config that the servers read.
A server started with --model_base_path always serves the newest version.
To choose versions, write models.config:

  model_config_list {{
    config {{
      name: "{args.model}"
      base_path: "{args.base.resolve()}"
      model_platform: "tensorflow"
    }}
  }}

start the server with it:

  ssd serve --rest_api_port 8501 \\
    --model_config_file models.config --model_config_file_poll_wait_seconds 10

and run:

  ssd versions {args.base} {args.action}{number} \\
    --config models.config --url http://localhost:8501"""


if __name__ == "__main__":
    sys.exit(main())
