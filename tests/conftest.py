"""One thread for torch in the tests: small tensors gain nothing from two, and a busy machine loses much."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser):
    folder = "folder for data sets of true counts, as hard links; made there unless it has them"
    parser.addoption("--true-counts", metavar="FOLDER", help=folder)
    parser.addoption("--true-counts-report", metavar="FILE", help="Markdown table of each row's first two steps")


def pytest_configure(config):
    report = config.getoption("--true-counts-report")
    if report and not hasattr(config, "workerinput"):
        head = "| row | records | to the first step, s | two steps of each stage, s | GPU memory, GiB |\n"
        try:
            Path(report).write_text(head + "|---|---|---|---|---|\n", encoding="utf-8")
        except OSError as error:
            raise pytest.UsageError(f"--true-counts-report: {error}") from error
