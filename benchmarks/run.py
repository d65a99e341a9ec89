"""``make bench``: runs every benchmark of this folder, one after the other, and gathers their figures in one JSON file.

Each is a program of its own (``--quick`` for a short round, ``--json FILE`` for its figures) that measures meshbridge
and what it is compared with in one run: ratios count, not absolute times.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = sorted(path.stem for path in HERE.glob("*.py") if path.stem != "run")


def main() -> int:
    parser = argparse.ArgumentParser(description="Run the benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; none: all")
    parser.add_argument("--quick", action="store_true", help="one short round of each, to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where to gather the figures")
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {min(unknown)!r}: there are {', '.join(BENCHMARKS)}")
    figures: dict[str, object] = {}
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="meshbridge-bench-") as directory:
        for name in given.names or BENCHMARKS:
            print(f"\n== {name} ==", flush=True)
            file = Path(directory) / f"{name}.json"
            command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file)]
            done = subprocess.run([*command, *(["--quick"] if given.quick else [])], check=False)
            if done.returncode == 0 and file.exists():
                figures[name] = json.loads(file.read_text())
            else:
                failed.append(name)
    given.json.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nfigures in {given.json}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
