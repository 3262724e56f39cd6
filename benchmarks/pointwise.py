"""The paper's loss at its best: a long search of what the paper leaves unsaid, for the chapter on ablations.

    python benchmarks/pointwise.py [--search unsaid|free] [--trials N] [--epochs N] [--minutes M] [--out FILE]

Adds the trials of a search to a CSV file, best first, in place of those of the same search that were there. Use
OMP_NUM_THREADS=1: a trial of 60 epochs takes about 3 s of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from aslpinn_book.chapters import ablations


def main() -> None:
    """Run one search and write its trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", choices=ablations.SEARCHES, default="unsaid")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--paper", type=int, metavar="EPOCHS", help="no search: train with the paper's schedule, see --of"
    )
    parser.add_argument(
        "--of", nargs="+", default=["preset"], metavar="SEARCH:TRIAL", help="with --paper: unsaid:49, free:52, preset"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pointwise.csv")
    arguments = parser.parse_args()

    def tell(done: int, total: int, message: str) -> None:
        if done % 10 == 0:
            print(f"{done}/{total} {message}", flush=True)

    known = ablations.read_csv(arguments.out) if arguments.out.is_file() else []
    if arguments.paper:
        for place in arguments.of:
            trial = None
            if place != "preset":
                search, _, number = place.partition(":")
                trial = next(row for row in known if (row["search"], row.get("trial")) == (search, int(number)))
            row = ablations.paper_schedule(trial, arguments.paper) | {"epochs": arguments.paper}
            known = [other for other in known if other["search"] != row["search"]] + [row]
            ablations.write_csv(known, arguments.out)
        return
    rows = ablations.search_pointwise(
        arguments.trials,
        arguments.search,
        arguments.seed,
        progress=tell,
        seconds=60 * arguments.minutes,
        epochs=arguments.epochs,
    )
    for row in rows:
        row["epochs"] = arguments.epochs
    kept = [row for row in known if row["search"] != arguments.search]
    ablations.write_csv(sorted(kept + rows, key=lambda row: str(row["search"]), reverse=True), arguments.out)
    best = rows[0]
    print(
        f"best of {len(rows)}: "
        + ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in best.items())
    )


if __name__ == "__main__":
    main()
