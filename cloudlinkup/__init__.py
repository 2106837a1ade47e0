"""CloudLinkUp: train models on other people's idle machines and pay for exactly the steps that were verified.

What a client needs from Python is here: `load_model(folder)` and `predict(folder, frame)` on a delivered job.
Names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["load_model", "predict"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from cloudlinkup.sdk import delivered

        return getattr(delivered, name)
    raise AttributeError(name)
