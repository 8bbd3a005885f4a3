import time
from dataclasses import dataclass

import torch

from training.evaluation.benchmark.measure import Cost, Row, attempt, capped, header, keep_and_measure, line, measure

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Figure(Row):
    cost: Cost
    share: float | None


def test_the_first_call_is_told_apart_and_patience_ends_the_repeats():
    calls = []

    def call() -> None:
        time.sleep(0.05 if calls else 0.2)
        calls.append(None)

    cost = measure(call, CPU, repeats=5, patience=0.07)
    assert len(calls) == 3, "one to warm up; after two more the patience is at an end"
    assert cost.least <= cost.seconds <= cost.most < 0.2 <= cost.first


def test_the_first_result_is_kept():
    count = iter(range(10))
    kept, cost = keep_and_measure(lambda: torch.tensor(next(count)), CPU, repeats=2)
    assert kept == 0 and next(count) == 3 and cost.seconds > 0


def test_a_line_has_the_columns_of_its_head():
    row = Figure("this", Cost(1.23456, 1, 2, 0, 0, 0), None)
    assert line(row) == "| this | 1.235 | 1 | 2 | 0 | 0 | 0 |  |"
    assert header(row).splitlines()[0].count("|") == line(row).count("|")
    assert "added gib" in header(row) and "share" in header(row)


def test_a_failure_is_told_in_one_line():
    def broken() -> Row:
        raise ValueError("first\nsecond")

    assert attempt("this", broken).text == "ValueError: first second"  # pyright: ignore[reportAttributeAccessIssue]


def test_a_device_without_caps_runs_without_one():
    with capped(CPU, 0.001):
        assert torch.ones(2**20).sum() == 2**20
