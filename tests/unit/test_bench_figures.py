"""The benchmarks' own arithmetic."""

from __future__ import annotations

import pytest

from prebuilds.bench.figures import Report, Sample, histogram, quantile, ratio


def test_quantiles_exist_for_any_sample_but_an_empty_one() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(range(100), 0.99) == 99
    assert quantile([], 0.5) is None
    assert ratio([2.0, 4.0, 100.0], [2.0]) == 2.0


async def test_a_sample_counts_what_went_wrong_and_tells_it() -> None:
    sample = Sample("call")

    async def fails() -> None:
        raise ValueError("not today")

    async def works() -> None:
        pass

    await sample.time(fails)
    await sample.time(works)
    figure = sample.figure()
    assert (figure.count, figure.errors) == (1, {"ValueError": 1})
    assert "errors 1 {'ValueError': 1}" in Report(title="t", figures=[figure]).text()
    assert "p50        - ms" in Report(title="t", figures=[Sample("none").figure()]).text()


@pytest.mark.parametrize(
    ("took", "line"), [(0.5, "< 1 ms"), (1.0, "< 2 ms"), (149.9, "< 150 ms"), (9000, ">= 5000 ms")]
)
def test_a_histogram_has_a_line_for_each_bucket(took: float, line: str) -> None:
    lines = histogram(Sample("a", took_ms=[took]), Sample("b"))
    assert len(lines) == 2
    assert lines[1].strip().startswith(line)
    assert lines[1].split()[-2:] == ["1", "0"]
