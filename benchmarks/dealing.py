"""What a change of seats costs in partitions that are sent again: as rows are dealt (`models/dealing.py`), and anew.

    python -m benchmarks.dealing [--seats 4 8 16] [--rounds 40] [--seeds 5] [--first 0] [--json]

A simulation of who holds which rows, no network. Seats of speeds 1:2:4:8 hold the rows. *Churn*: each round a quarter
of the seats is away, others than in the round before, and comes back in the next one. *Leaves, comes*: one seat goes
for good in every tenth round, and somebody new takes its place in the round after. A partition is sent as a whole when
its rows are not those that its seat had in one of its last five partitions. Figures are bytes sent in all rounds after
the first, in copies of the whole table, with a 95% t interval over seeds.

Baseline, *anew*: rows of those who left are dealt to all others, and all rows are dealt anew when somebody comes or
comes back; a partition is sent when its rows changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

from benchmarks.intervals import t_interval
from models.dealing import NOBODY, anew, deal

ROWS, BATCH, MEMORY = 20_000, 32, 5
Shares = dict[int, float]
Scenario = Callable[[int, int, np.random.Generator], list[set[int]]]


def churn(seats: int, rounds: int, generator: np.random.Generator) -> list[set[int]]:
    """Who is here in each round."""
    whole, away, found = set(range(seats)), set[int](), [set(range(seats))]
    for _ in range(rounds - 1):
        away = set(generator.choice(sorted(whole - away), size=max(1, seats // 4), replace=False).tolist())
        found.append(whole - away)
    return found


def leaves_and_comes(seats: int, rounds: int, generator: np.random.Generator) -> list[set[int]]:
    here, number, found = set(range(seats)), seats, []
    for at in range(rounds):
        if at % 10 == 5:
            here = here - {int(generator.choice(sorted(here)))}
        elif at % 10 == 6:
            here, number = here | {number}, number + 1
        found.append(here)
    return found


def ours(held: np.ndarray, home: np.ndarray, shares: Shares, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return deal(held, home, shares, seed=seed, minimum=BATCH)


def all_anew(held: np.ndarray, home: np.ndarray, shares: Shares, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if any(not (held == seat).any() for seat in shares):
        held = np.full(ROWS, NOBODY, np.int32)
    held, free = held.copy(), np.flatnonzero(~np.isin(held, list(shares)))
    missing = {s: max(share * ROWS - (held == s).sum(), 0.01 * share * ROWS) for s, share in shares.items()}
    if len(free) >= len(shares):
        held[free] = anew(len(free), missing, seed, BATCH)
    return held, home


def sent(rule: Callable[..., tuple[np.ndarray, np.ndarray]], here: list[set[int]], memory: int) -> float:
    """Copies of the table that are sent after the first round."""
    held = home = np.full(ROWS, NOBODY, np.int32)
    known: dict[int, list[bytes]] = {}
    total = 0
    for at, seats in enumerate(here):
        speeds = {seat: 2.0 ** (seat % 4) for seat in sorted(seats)}
        shares = {seat: speed / sum(speeds.values()) for seat, speed in speeds.items()}
        held, home = rule(held, home, shares, at)
        for seat in seats:
            rows = np.flatnonzero(held == seat)
            kept = known.setdefault(seat, [])
            if (which := rows.tobytes()) in kept:
                kept.remove(which)
            elif at:
                total += len(rows)
            known[seat] = [which, *kept][:memory]
    return total / ROWS


SCENARIOS: dict[str, Scenario] = {"churn": churn, "leaves, comes": leaves_and_comes}


def compare(seats: list[int], rounds: int, seeds: range) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for count in seats:
        for name, scenario in SCENARIOS.items():
            fields = [scenario(count, rounds, np.random.default_rng(seed)) for seed in seeds]
            least = t_interval([sent(ours, here, MEMORY) for here in fields])
            base = t_interval([sent(all_anew, here, 1) for here in fields])
            rows.append({"scenario": name, "seats": count, "ours": least, "anew": base})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seats", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = compare(given.seats, given.rounds, range(given.first, given.first + given.seeds))
    if given.json:
        print(json.dumps({"benchmark": "dealing", "rounds": given.rounds, "rows": rows}, indent=2))
        return
    print(
        f"{given.rounds} rounds, {given.seeds} seeds; copies of the table sent after the first round, 95% t intervals"
    )
    print(f"{'':16}{'seats':>6}{'anew':>18}{'ours':>18}{'':>8}")
    for row in rows:
        (base, around), (least, about) = row["anew"], row["ours"]  # type: ignore[misc]
        print(
            f"{row['scenario']:16}{row['seats']:>6}{base:>10.2f} +- {around:4.2f}{least:>10.2f} +- {about:4.2f}"
            f"{base / least:>7.1f}x"
        )


if __name__ == "__main__":
    main()
