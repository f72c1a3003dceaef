"""A benchmark's output: a table, the bounds with the measured values, and both as JSON."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bound:
    """A number that must be at least `least` or at most `most`."""

    name: str
    value: float
    least: float | None = None
    most: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the value is within the bound."""
        if self.least is not None and self.value < self.least:
            return False
        return self.most is None or self.value <= self.most

    def __str__(self) -> str:
        wanted = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        return f"{self.name}: {self.value:.3g} ({wanted})"


def report(
    title: str, rows: Sequence[Mapping[str, object]], bounds: Sequence[Bound], path: Path | None
) -> int:
    """Prints a table and JSON, and writes JSON to a given path; returns 1 if a bound is missed."""
    table = Table(title=f"{title}, {os.cpu_count()} CPU cores")
    for header in rows[0]:
        table.add_column(header, justify="left" if header == "what" else "right")
    for row in rows:
        cells = (f"{v:,.3g}" if isinstance(v, float) and v < 100 else v for v in row.values())
        table.add_row(*(f"{v:,.0f}" if isinstance(v, float) else str(v) for v in cells))
    Console(width=120).print(table)
    for bound in bounds:
        print(bound)
    document = {
        "measurements": rows,
        "bounds": [{**vars(bound), "holds": bound.holds} for bound in bounds],
    }
    text = json.dumps(document, indent=1)
    print(text)
    if path:
        path.write_text(text + "\n", encoding="utf-8")
    missed = [str(bound) for bound in bounds if not bound.holds]
    if missed:
        print(f"missed: {'; '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0
