"""What wrk prints is read with its units, and a missing figure is an error."""

from __future__ import annotations

import pytest

from benchmarks.harness.wrk import parse_wrk

PRINTED = """
Running 10s test @ http://127.0.0.1:8080/predictions/linear/1.0
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     8.70ms    3.52ms  60.27ms   88.21%
  Latency Distribution
     50%  762.00us
     75%    9.50ms
     99%    1.20s
  152012 requests in 10.01s, 44.21MB read
  Socket errors: connect 0, read 1, write 2, timeout 3
  Non-2xx or 3xx responses: 40
Requests/sec:  15192.31
Transfer/sec:      4.42MB
"""


def test_figures_have_their_units() -> None:
    report = parse_wrk(PRINTED)
    assert report.requests == 152012
    assert (report.requests_s, report.p50_ms, report.p99_ms, report.failed) == (15192.31, 0.762, 1200.0, 46)


@pytest.mark.parametrize("line", ["requests in", "Requests/sec", "50%", "99%"])
def test_a_missing_figure_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="wrk did not print"):
        parse_wrk("\n".join(text for text in PRINTED.splitlines() if line not in text))


def test_a_clean_run_has_no_failures() -> None:
    clean = "\n".join(text for text in PRINTED.splitlines() if "errors" not in text and "Non-2xx" not in text)
    assert parse_wrk(clean).failed == 0


@pytest.mark.parametrize("share", ["88.50%", "88.99%"])
def test_a_share_of_the_line_before_is_no_percentile(share: str) -> None:
    assert parse_wrk(PRINTED.replace("88.21%", share)) == parse_wrk(PRINTED)
