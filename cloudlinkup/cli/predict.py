"""`predict`: a delivered model on raw rows."""

from __future__ import annotations

import sys
from pathlib import Path

from cloudlinkup.cli.terminal import terminal
from cloudlinkup.errors import BadInput


def predict(folder: Path, data: Path, /) -> None:
    """Predict on the rows of a CSV or Parquet file, with a folder that `download` made.

    Parameters
    ----------
    folder
        The delivered model.
    data
        Raw rows with the columns of the training data; the label may be left out.
    """
    if not folder.is_dir():
        raise BadInput("folder", str(folder), "there is no such folder", "`cloudlinkup download REQUEST` makes one")

    import pandas as pd

    from cloudlinkup.sdk import delivered

    try:
        frame = pd.read_parquet(data) if data.suffix in (".parquet", ".pq") else pd.read_csv(data)
    except (OSError, ValueError) as error:
        raise BadInput("data", str(data), f"cannot be read ({type(error).__name__})", "give CSV or Parquet") from None
    values = delivered.predict(folder, frame)
    table = pd.DataFrame({"prediction": values})
    terminal.result(table["prediction"].tolist(), lambda _: table.to_csv(sys.stdout, index=False))
