"""The data gate's decisions, as plain functions."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tensorflow_metadata.proto.v0 import anomalies_pb2, statistics_pb2

from components.data_gate.config import DROP_TRAIN, DataGateConfig
from components.data_gate.scan import Leak, Scan
from components.data_gate.shift import Shift
from data import fields
from data.errors import DataError
from data.problems import counted
from data.splits import TRAIN

ERROR = "error"
WARNING = "warning"

_SCHEMA = "schema"
_LEAKS = "leaks"
_SHOWN = 20

# What each check's findings mean, and what to do about them.
_HEADINGS = {
    _SCHEMA: "the data does not fit its schema",
    _LEAKS: "a picture is in more than one split",
    "pictures": "a picture cannot be used",
    "orientation": "a picture has an EXIF rotation, which training and serving ignore",
    "boxes": "invalid box",
    "duplicates": "duplicate object",
    "anchors": "objects that the detector's anchors cannot match",
    "classes": "a class is missing",
    "sizes": "a split is small",
    "skew": "the splits differ",
    "drift": "the data has changed",
}
_REMEDIES = {
    _SCHEMA: "Fix the data and convert it again. If the data is right, change the schema "
    "and give its path with --set data.schema=PATH",
    _LEAKS: "Remove one of each pair from its list and convert again, or convert with --set "
    "data.split=80/10/10, which keeps pairs in one split. Or train without the copies: --set "
    "data.on_leak=drop_train. If they only look alike, lower data.leak_distance",
    "pictures": "Replace the files and convert again",
    "orientation": "If the boxes were drawn on upright pictures they are in the wrong place: "
    "convert again with --exif upright. If they are in pixels as stored, convert with --exif "
    "stored, or remove orientation from data.block_on",
    "boxes": "Fix the annotations and convert again",
}
_REMEDY = "Fix the data and convert it again, or remove {check} from data.block_on"


@dataclass(frozen=True)
class Finding:
    """Something people should know about the data; an error stops the run."""

    check: str
    level: str
    text: str


def list_anomalies(anomalies: dict[str, anomalies_pb2.Anomalies]) -> list[dict]:
    """One entry (`split`, `feature`, `problem`) per anomaly of each split."""
    found = []
    for split, proto in sorted(anomalies.items()):
        if proto.HasField("dataset_anomaly_info"):
            info = proto.dataset_anomaly_info
            found.append({"split": split, "feature": "", "problem": info.description})
        for feature, info in sorted(proto.anomaly_info.items()):
            found.append({"split": split, "feature": feature, "problem": info.description})
    return found


def count_objects(statistics: statistics_pb2.DatasetFeatureStatisticsList) -> dict:
    """A split's `pictures`, `objects` and `objects_per_class`, from its statistics."""
    (dataset,) = statistics.datasets
    features = {".".join(f.path.step) or f.name: f for f in dataset.features}
    text = features[fields.detect(features).text]
    ranks = text.string_stats.rank_histogram.buckets
    return {
        "pictures": int(dataset.num_examples),
        "objects": int(text.string_stats.common_stats.tot_num_values),
        "objects_per_class": {b.label: int(b.sample_count) for b in ranks},
    }


def excluded_records(leaks: Iterable[Leak], config: DataGateConfig) -> list[str]:
    """Sorted ids of the training records to leave out; none unless `on_leak` is drop_train."""
    if config.on_leak != DROP_TRAIN:
        return []
    records = {record for leak in leaks for record in (leak.first, leak.second)}
    leaking = {record for leak in leaks if _in_train(leak) for record in (leak.first, leak.second)}
    return sorted(record_id for split, record_id in records & leaking if split == TRAIN)


def judge(
    anomalies: Sequence[dict],
    counts: Mapping[str, dict],
    scan: Scan,
    shifts: Iterable[Shift],
    classes: Sequence[str],
    config: DataGateConfig,
) -> list[Finding]:
    """Everything found, errors first.

    anomalies: from `list_anomalies`.
    counts: from `count_objects`, by split.
    classes: the schema's.
    """
    found = [
        Finding(_SCHEMA, ERROR, f"{a['split']}: {a['feature'] or 'whole split'}: {a['problem']}")
        for a in anomalies
    ]
    for leak in scan.leaks:
        dropped = config.on_leak == DROP_TRAIN and _in_train(leak)
        text = _leak_text(leak) + (", left out of training" if dropped else "")
        found.append(Finding(_LEAKS, WARNING if dropped else ERROR, text))
    small = {split for split, count in counts.items() if count["pictures"] < config.min_pictures}
    texts = [(p.check, f"{p.split}: {p.record_id}: {p.text}") for p in scan.problems]
    texts += _anchor_texts(scan, config)
    texts += _count_texts(counts, classes, small, config)
    texts += [
        (
            shift.check,
            f"{shift.feature} of train and {shift.other}: {shift.measure} "
            f"{shift.value:.3f}, more than {shift.limit:g}",
        )
        for shift in shifts
        if shift.value > shift.limit
        and (shift.check in config.block_on or not {TRAIN, shift.other} & small)
    ]
    found += [
        Finding(check, ERROR if check in config.block_on else WARNING, text)
        for check, text in texts
    ]
    return sorted(found, key=lambda finding: finding.level != ERROR)


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """The findings as readable lines, grouped by check; long lists are truncated."""
    groups: dict[str, list[str]] = {}
    for finding in findings:
        groups.setdefault(finding.check, []).append(finding.text)
    lines = []
    for check, texts in groups.items():
        lines.append(f"{_HEADINGS[check]}, {len(texts)} found:")
        lines += [f"  {text}" for text in texts[:_SHOWN]]
        if len(texts) > _SHOWN:
            lines.append(f"  and {len(texts) - _SHOWN:,} more")
    return lines


def refuse_errors(findings: Sequence[Finding], report: str) -> None:
    """Raises DataError with a readable list if there are errors.

    report: the file with all findings.
    """
    errors = [finding for finding in findings if finding.level == ERROR]
    if not errors:
        return
    lines = []
    for check in dict.fromkeys(finding.check for finding in errors):
        lines += lines_of(finding for finding in errors if finding.check == check)
        lines.append(_REMEDIES.get(check, _REMEDY.format(check=check)))
    raise DataError("\n".join([*lines, f"All findings: {report}"]))


def _in_train(leak: Leak) -> bool:
    return TRAIN in (leak.first[0], leak.second[0])


def _leak_text(leak: Leak) -> str:
    how = "the same bytes"
    if leak.distance is not None:
        how = f"the same look ({leak.distance} of 256 bits differ)"
    return f"{' '.join(leak.first)} and {' '.join(leak.second)}: {how}"


def _anchor_texts(scan: Scan, config: DataGateConfig) -> Iterable[tuple[str, str]]:
    limit = config.max_unmatchable
    for split, facts in sorted(scan.splits.items()):

        def share(count: int, of: int = facts.objects) -> str:
            return f"{count / of:.1%}"

        if facts.unmatchable <= limit * facts.objects:
            continue
        kinds = sorted(facts.misfits.items(), key=lambda item: -item[1])
        named = ", ".join(f"{count:,} {kind} ({share(count)})" for kind, count in kinds)
        text = (
            f"{split}: {facts.unmatchable:,} of {counted(facts.objects, 'object')} "
            f"({share(facts.unmatchable)}) match no anchor, above {limit:.1%}: {named}"
        )
        best = min(facts.of_others, key=facts.of_others.__getitem__, default=None)
        left = facts.of_others[best] if best else facts.unmatchable
        if left >= facts.unmatchable:
            yield "anchors", f"{text}. No preset has anchors for more of them"
        elif left > limit * facts.objects:
            yield "anchors", f"{text}. No preset matches enough; {best} would leave {share(left)}"
        else:
            yield "anchors", f"{text}. Preset {best} would leave {share(left)}"


def _count_texts(
    counts: Mapping[str, dict],
    classes: Sequence[str],
    small: Collection[str],
    config: DataGateConfig,
) -> Iterable[tuple[str, str]]:
    for split, count in sorted(counts.items()):
        missing = [name for name in classes if not count["objects_per_class"].get(name)]
        if missing:
            yield "classes", f"{split}: no {', '.join(missing)}"
        if split in small:
            pictures = counted(count["pictures"], "picture")
            text = f"{split}: {pictures}, under {config.min_pictures}"
            yield (
                "sizes",
                text if "skew" in config.block_on else f"{text}: not compared with others",
            )
