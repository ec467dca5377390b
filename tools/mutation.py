"""Share of mutants of the money modules that the tests kill, by mutmut (`make mutation`).

What is mutated and which tests judge it stands in `pyproject.toml`. Every run begins anew. What
survived: `mutmut results`, then `mutmut show NAME`.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.stats import status_by_exit_code
from mutmut.utils.format_utils import get_mutant_name

from sim.arguments import whole

ROOT = Path(__file__).parent.parent
WORK = Path("mutants")  # mutmut's own name
KILLED = ("killed", "timeout")
SURVIVED = ("survived", "no tests")


def mutated_modules() -> list[str]:
    """Return the modules that are mutated, in the order they are reported."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    modules: list[str] = settings["tool"]["mutmut"]["only_mutate"]
    return modules


def mutants_of(module: str) -> list[str]:
    """Return the names of all mutants of a module."""
    made = mutate_file_contents(module, (ROOT / module).read_text(encoding="utf-8"))
    return [get_mutant_name(Path(module), x) for x in made.mutant_names]


def drawn(names: list[str], size: int, seed: int) -> list[str]:
    """Return a sample of that size, the same for a seed; all where there are no more."""
    return sorted(random.Random(seed).sample(names, min(size, len(names))))


def line(module: str, statuses: list[str], total: int) -> str:
    """Return one line of the report. Raises ValueError where a mutant was not judged."""
    counted = Counter(statuses)
    killed, survived = (sum(counted[x] for x in group) for group in (KILLED, SURVIVED))
    if killed + survived != len(statuses):
        raise ValueError(f"{module}: not all mutants were judged: {dict(counted)}")
    share = f"{100 * killed / len(statuses):.1f} %" if statuses else "–"
    return f"{module:28}{total:9}{len(statuses):8}{killed:8}{survived:10}{share:>9}"


def report(chosen: set[str]) -> str:
    """Return the table: of each module all mutants, those judged, killed, survived, the share.

    Judged are those that were chosen; where none was, all.
    """
    rows = [f"{'module':28}{'mutants':>9}{'judged':>8}{'killed':>8}{'survived':>10}{'share':>9}"]
    everything, total = list[str](), 0
    for module in mutated_modules():
        told = json.loads((ROOT / WORK / f"{module}.meta").read_text(encoding="utf-8"))
        codes = told["exit_code_by_key"]
        statuses = [status_by_exit_code[v] for k, v in codes.items() if k in chosen or not chosen]
        rows.append(line(module, statuses, len(codes)))
        everything, total = everything + statuses, total + len(codes)
    return "\n".join((*rows, line("all", everything, total)))


def main() -> int:
    """Mutate, judge and report. Returns mutmut's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    size, seed = whole(1, 10_000), whole(0, 2**32 - 1)
    parser.add_argument("--sample", type=size, help="so many mutants of each module, not all")
    parser.add_argument("--seed", type=seed, default=1, help="of the sample")
    args = parser.parse_args()
    chosen: list[str] = []
    if args.sample:
        modules = mutated_modules()
        chosen = [x for m in modules for x in drawn(mutants_of(m), args.sample, args.seed)]
    shutil.rmtree(ROOT / WORK, ignore_errors=True)
    mutmut = str(Path(sys.executable).parent / "mutmut")
    command = [mutmut, "run", "--max-children", "1", *chosen]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    if code:
        return code
    if chosen:
        print(f"A sample: {args.sample} mutants of each module, drawn with seed {args.seed}.")
    print(report(set(chosen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
