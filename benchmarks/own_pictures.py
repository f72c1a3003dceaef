"""mAP and Trainer seconds of the preset `light` on real pictures, by seed.

    VOC_FIXTURES=DIR python -m benchmarks.own_pictures --data bccd [--seeds 0 1 2] [--json FILE]

Each seed is a whole run of the pipeline. Run nothing else on the machine: the bound on seconds is
for two idle cores. `bccd` uses its own lists; `voc` trains on the trainval lists of voc2007_1200
and voc2007_300, a tenth of them for eval, and tests on the test list of voc2007_1200; `sample` is
the drawn data.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import Bound, report

_MAP = re.compile(r"Evaluator done in [\d.]+ s: mAP ([\d.]+)")
_SECONDS = re.compile(r"Trainer done in ([\d.]+) s")
_PICTURES_PER_SECOND = re.compile(r"images/s=([\d.]+)")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_pictures")
    parser.add_argument("--data", choices=_DATA, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="PART.FIELD=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    data = _DATA[options.data]
    with tempfile.TemporaryDirectory() as folder:
        arguments = data.convert(Path(folder))
        rows = []
        for seed in options.seeds:
            output = Path(folder) / f"seed{seed}"
            settings = [f"trainer.seed={seed}", *options.set]
            rows.append({"what": f"seed {seed}", **_run(arguments, settings, output)})
    mean = {
        name: statistics.fmean(row[name] for row in rows)
        for name in ("mAP", "Trainer seconds", "pictures/s")
    }
    bounds = [Bound("mean mAP on the test split", mean["mAP"], least=data.least_map)]
    if data.most_seconds:
        bounds.append(Bound("Trainer seconds", mean["Trainer seconds"], most=data.most_seconds))
    title = f"preset light on {options.data}"
    return report(title, [*rows, {"what": "mean", **mean}], bounds, options.json)


def _run(arguments: Sequence[str], settings: Sequence[str], output: Path) -> Mapping[str, float]:
    sets = [word for setting in settings for word in ("--set", setting)]
    command = [sys.executable, "local_runner.py", "--preset", "light", *arguments, *sets]
    text = _output_of([*command, "--output", str(output)])
    speeds = [float(speed) for speed in _PICTURES_PER_SECOND.findall(text)]
    return {
        "mAP": float(_MAP.search(text)[1]),
        "Trainer seconds": float(_SECONDS.search(text)[1]),
        "pictures/s": statistics.median(speeds),
    }


def _output_of(command: Sequence[str]) -> str:
    """A command's output, which is also shown live; exits if the command fails."""
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        sys.exit(f"failed: {' '.join(command)}")
    return "".join(lines)


def _fixtures() -> Path:
    try:
        return Path(os.environ["VOC_FIXTURES"]).resolve()
    except KeyError:
        sys.exit("set VOC_FIXTURES to the folder that holds bccd/ and voc2007_1200/")


def _convert(root: Path, folder: Path, *arguments: str) -> list[str]:
    """Converts to records; returns the pipeline's arguments for them."""
    records = folder / "records"
    command = [sys.executable, "-m", "data.convert", "--voc", str(root), "--output", str(records)]
    _output_of([*command, *arguments])
    return ["--data", str(records), "--set", f"data.schema={records / 'schema.pbtxt'}"]


def _bccd(folder: Path) -> list[str]:
    lists = [word for split in ("train", "test") for word in (f"--{split}", f"BCCD/{split}")]
    # Two of its files have an empty box.
    others = ["--eval", "BCCD/val", "--on-error=skip", "--classes", "RBC", "WBC", "Platelets"]
    # Two pictures are near-duplicates across train and test.
    leaks = ["--set", "data.on_leak=drop_train"]
    return [*_convert(_fixtures() / "bccd", folder, *lists, *others), *leaks]


def _voc(folder: Path) -> list[str]:
    """Both sets as one VOC folder with links."""
    year = folder / "VOCdevkit/VOC2007"
    lists = year / "ImageSets/Main"
    lists.mkdir(parents=True)
    ids = {"trainval": [], "test": []}
    for name in ("voc2007_1200", "voc2007_300"):
        source = _fixtures() / name / "VOCdevkit/VOC2007"
        for split in ids if name == "voc2007_1200" else ("trainval",):
            ids[split] += (source / f"ImageSets/Main/{split}.txt").read_text().split()
        for part in ("JPEGImages", "Annotations"):
            (year / part).mkdir(exist_ok=True)
            for path in (source / part).iterdir():
                (year / part / path.name).symlink_to(path)
    for split, names in ids.items():
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    splits = ["--train", "VOC2007/trainval", "--test", "VOC2007/test", "--eval-fraction", "0.1"]
    return _convert(folder / "VOCdevkit", folder, *splits)


def _sample(folder: Path) -> list[str]:
    return ["--set", "data.schema=sample"]


@dataclass(frozen=True)
class _Data:
    """`convert` writes the data to a folder and returns the pipeline's arguments for it."""

    convert: Callable[[Path], list[str]]
    least_map: float
    most_seconds: float | None = None


_DATA = {
    "bccd": _Data(_bccd, 0.90, 600),
    "voc": _Data(_voc, 0.50, 3600),
    "sample": _Data(_sample, 0.91),
}


if __name__ == "__main__":
    sys.exit(main())
