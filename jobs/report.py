"""`report`: one HTML file with tables and pictures of everything that a run left."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import tyro

from jobs.cli import parse
from storage.config import Frozen

log = logging.getLogger(__name__)


class ReportOptions(Frozen):
    """One HTML file with tables and pictures of everything that a run left; prints the tables too."""

    run: Annotated[Path, tyro.conf.Positional]
    """Folder of the run: cache/, distill/, finetune-*/, evaluate-*/."""
    out: Path | None = None
    """The HTML file; default: report.html in the run's folder."""


def main(argv: list[str]) -> int:
    """Command entry."""
    options = parse("report", ReportOptions, argv, recipe=False).options
    from student.report.inputs import load_run
    from student.report.page import write_report
    from student.report.tables import summary_text

    out = write_report(options.run, options.out)
    sys.stdout.write(summary_text(load_run(options.run)) + "\n")
    log.info("wrote %s (%.1f MB)", out, out.stat().st_size / 1e6)
    return 0
