"""Heatmap: one statistic of a run, layers by columns of consecutive samples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gradwatch.tab.pooling import column_sizes, column_starts, pooled, pooled_states
from gradwatch.tab.statistics import TabStatistic
from gradwatch.tab.stored_run import StoredRun
from gradwatch.tab.wire import encode


def heatmap(
    run: StoredRun,
    statistic: TabStatistic,
    *,
    columns: int,
    first: float = -math.inf,
    last: float = math.inf,
) -> bytes:
    """The octets of a heatmap, see `wire`.

    Its arrays are `values` float32 and `states` uint8, both of shape (layers, columns), and
    `first_steps`, `last_steps` float64 and `counts` int32 of shape (columns,).

    Args:
        run: The run.
        statistic: What is drawn; of one that needs signals only samples with signals count.
        columns: Columns wanted, at least one; there is never more than one a sample.
        first: First step of the range.
        last: Last step of the range.
    """
    matrix = run.matrix
    wanted = (matrix.steps >= first) & (matrix.steps <= last)
    if statistic.needs == "signals":
        wanted &= matrix.has_signals
    steps = matrix.steps[wanted]
    starts = column_starts(len(steps), columns)
    sizes = column_sizes(starts, len(steps))
    taken: Any = slice(None) if wanted.all() else wanted
    values = pooled(
        run.statistic(statistic.name)[taken], starts, geometric=statistic.scale == "log"
    )
    meta = {
        "run": run.name,
        "statistic": statistic.name,
        "token": run.token,
        "samples": len(steps),
    }
    return encode(
        meta,
        {
            "values": values.T,
            "states": pooled_states(matrix.states[taken], starts).T,
            "first_steps": steps[starts].astype(np.float64),
            "last_steps": steps[starts + sizes - 1].astype(np.float64),
            "counts": sizes,
        },
    )
