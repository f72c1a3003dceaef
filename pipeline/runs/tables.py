"""Prints the answers of `questions` to a terminal."""

from rich import box, filesize
from rich.console import Console
from rich.table import Table

from data.problems import counted


def print_runs(console: Console, runs: list[dict]) -> None:
    """One line per run."""
    table = _table("run", "started", "name", "mAP", "blessed", "pushed", "state")
    for run in runs:
        table.add_row(
            str(run["number"]),
            _when(run),
            run["name"],
            _number(run["mAP"]),
            _yes(run["blessed"]),
            run["pushed"] or "-",
            run["state"],
        )
    console.print(table)


def print_run(console: Console, run: dict) -> None:
    """What each component read and wrote."""
    print_runs(console, [run])
    for step in run["steps"]:
        seconds = "" if step["seconds"] is None else f" in {step['seconds']:.1f} s"
        console.print(f"{step['component']}: {step['state']}{seconds}", style="bold")
        for verb, side in (("read", step["inputs"]), ("wrote", step["outputs"])):
            for key, artifacts in side.items():
                for artifact in artifacts:
                    name = f"{key} ({artifact['type']} {artifact['id']})"
                    line = f"  {verb} {name}: {artifact['uri']}"
                    if len(line) > console.width:
                        line = f"  {verb} {name}:\n    {artifact['uri']}"
                    console.print(line, markup=False, soft_wrap=True)


def print_trace(console: Console, trace: dict) -> None:
    """What led to a model."""
    run, data = trace["run"], trace["data"]
    facts = _table("what", "value")
    rows = {
        "model": trace["model"],
        "pushed as": trace["pushed"] or "-",
        "run": f"{run['number']}, {run['name']}, preset {run['preset']}, started {_when(run)}",
        "data set": data["name"] or "-",
        "data": data["source"] or "-",
        "records": data["records"],
        "span": "-" if data["span"] is None else data["span"],
        "version": "-" if data["version"] is None else data["version"],
        "left out": data["left_out"] or "-",
        "base weights": trace["base_weights"],
        "base model": trace["base_model"] or "-",
        "starting weights": f"sha256 {trace['starting_weights_sha256']}",
        "checkpoint": trace["checkpoint"] or "-",
        "exported": _exported(trace["exported"]),
        "compared with": trace["baseline"] or "no blessed model",
        "blessed": _yes(trace["blessed"]),
        "mAP": _interval(trace["mAP"]),
    }
    rows |= {f"code of {name}": version for name, version in trace["code_versions"].items()}
    rows["packages"] = ", ".join(f"{name} {v}" for name, v in trace["packages"].items())
    for name, value in rows.items():
        facts.add_row(name, str(value))
    console.print(facts)

    splits = _table("split", "pictures", "objects", "fingerprint")
    for name, split in data["splits"].items():
        counts = (f"{split[key]:,}" for key in ("pictures", "objects"))
        splits.add_row(name, *counts, split["fingerprint"] or "-")
    console.print(splits)
    for name, split in data["splits"].items():
        if split["left_out"]:
            ids = split["left_out"]
            console.print(f"left out of {name}, {len(ids):,}: {', '.join(ids)}", soft_wrap=True)

    bounds = _table("condition", "of", "required", "measured", "met")
    for bound in trace["thresholds"]:
        bounds.add_row(
            bound["metric"],
            bound["slice"] or "all",
            bound["bound"],
            _number(bound["measured"]),
            f"{_yes(bound['ok'])} {bound['why']}".strip(),
        )
    console.print(bounds)

    scores = _table("class", "AP")
    for name, value in trace["AP"].items():
        scores.add_row(name, _number(value))
    console.print(scores)

    configuration = _table("configuration", "value")
    for name, value in trace["configuration"].items():
        configuration.add_row(name, str(value))
    console.print(configuration)


def print_diff(console: Console, diff: dict) -> None:
    """How two runs differ."""
    print_runs(console, diff["runs"])
    names = [f"run {run['number']}" for run in diff["runs"]]
    for part in ("configuration", "data", "code"):
        if not diff[part]:
            console.print(f"{part}: the same\n")
            continue
        table = _table(part, *names)
        for name, values in diff[part].items():
            table.add_row(name, *("-" if value is None else str(value) for value in values))
        console.print(table)
    table = _table("AP", *names, "change")
    for name, entry in diff["AP"].items():
        change = entry["change"]
        values = map(_number, entry["values"])
        table.add_row(name, *values, "-" if change is None else f"{change:+.4f}")
    console.print(table)


def print_pruned(console: Console, answer: dict) -> None:
    """What was or would be removed, and how much space that frees."""
    for folder in answer["folders"]:
        console.print(f"  {folder}", soft_wrap=True)
    for kind, size in answer["bytes"].items():
        console.print(f"{kind}: {filesize.decimal(size)}")
    verb = "freed" if answer["removed"] else "would free"
    total = filesize.decimal(sum(answer["bytes"].values()))
    console.print(f"{verb} {total} in {counted(len(answer['folders']), 'folder')}")


def _table(*columns: str) -> Table:
    # Narrow gaps, so that the state of a run that stopped in StatisticsGen fits in 80 columns.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        # Never cut off, since users copy names and paths from here.
        table.add_column(column, overflow="fold", no_wrap=column in ("started", "pushed"))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(score: dict) -> str:
    if score["low"] is None:
        return _number(score["value"])
    return f"{score['value']:.4f} ({score['low']:.4f} to {score['high']:.4f})"


def _exported(chosen: dict | None) -> str:
    if chosen is None:
        return "-"
    score = chosen["eval_map"]
    return f"step {chosen['step']}" + ("" if score is None else f", mAP {score:.4f} on eval")


def _yes(value: bool | None) -> str:
    return "-" if value is None else "yes" if value else "no"


def _when(run: dict) -> str:
    """Date and time of day, without seconds and time zone."""
    return run["started"][:16].replace("T", " ")
