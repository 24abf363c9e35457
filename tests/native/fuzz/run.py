"""Run the fuzzers that `make -C native fuzz` built: run.py [--seconds N | --runs N] [HARNESS…].

Each begins with the packed corpus and with what earlier runs found, in build/fuzz/corpus, where
what this run finds is added. An input that is a finding goes to build/fuzz/findings, and ends the
run with status 1. Two run at a time (--jobs). A line for each, in the words of native/Makefile.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packed import CHECKOUT, HARNESSES, unpack

BUILD = CHECKOUT / "build" / "fuzz"
FINDINGS = BUILD / "findings"
# A minute for 64 KiB, on a machine that is busy, and memory for sixteen blocks' worth of anything.
LIMITS = ("-timeout=60", "-rss_limit_mb=1024", "-malloc_limit_mb=64")
MAX_BYTES = 16 + 16 * 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a fuzzer came to."""

    harness: str
    status: int
    runs: int
    seconds: float
    coverage: str  # in libFuzzer's words: edges, and those with how often they were taken
    log: Path

    @property
    def line(self) -> str:
        verdict = "FAILED" if self.status else "ok"
        rate = self.runs / max(self.seconds, 0.1)
        return (
            f"{verdict}: fuzz_{self.harness} ({self.runs} runs in {self.seconds:.0f} s, "
            f"{rate:.0f} a second; {self.coverage})"
        )


def fuzz(harness: str, limit: str) -> Outcome:
    """Run one until ``limit``, an option of libFuzzer's, or until a finding."""
    corpus = BUILD / "corpus" / harness
    corpus.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{harness}.log"
    command = [
        str(BUILD / "bin" / f"fuzz_{harness}"),
        *LIMITS,
        limit,
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix={FINDINGS}/{harness}-",
        "-print_final_stats=1",
        str(corpus),
        str(unpack(harness, BUILD / "packed" / harness)),
    ]
    started = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        ).returncode
    told = log.read_text(errors="replace")
    runs = re.findall(r"number_of_executed_units: (\d+)", told)
    reached = re.findall(r"cov: \d+ ft: \d+", told) or ["nothing reached"]
    # Without its closing lines it did not end as it should.
    status = status or int(not runs)
    seconds = time.monotonic() - started
    return Outcome(harness, status, int((runs or [0])[0]), seconds, reached[-1], log)


def report(outcome: Outcome) -> None:
    """A line; after a finding, the stack and what to do with it."""
    print(outcome.line, flush=True)
    if not outcome.status:
        return
    for line in outcome.log.read_text(errors="replace").splitlines()[-60:]:
        if not re.match(r"#\d+\s+(NEW|REDUCE|RELOAD|pulse|INITED|READ)", line):
            print(f"| {line}")
    for path in sorted(FINDINGS.glob(f"{outcome.harness}-*")):
        print(f"| again: build/fuzz/bin/fuzz_{outcome.harness} {path.relative_to(CHECKOUT)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run.py", description=__doc__)
    limits = parser.add_mutually_exclusive_group()
    limits.add_argument("--seconds", type=int, default=60, help="for each harness")
    limits.add_argument("--runs", type=int, help="of each harness")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time")
    parser.add_argument("harnesses", nargs="*", metavar="HARNESS", help=", ".join(HARNESSES))
    found = parser.parse_args()
    unknown = set(found.harnesses) - set(HARNESSES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    return found


def main() -> int:
    wanted = arguments()
    FINDINGS.mkdir(parents=True, exist_ok=True)
    limit = f"-max_total_time={wanted.seconds}" if wanted.runs is None else f"-runs={wanted.runs}"
    failed = 0
    with ThreadPoolExecutor(max_workers=max(1, wanted.jobs)) as pool:
        for outcome in pool.map(
            lambda harness: fuzz(harness, limit), wanted.harnesses or HARNESSES
        ):
            report(outcome)
            failed += outcome.status != 0
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
