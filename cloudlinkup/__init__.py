"""CloudLinkUp: train models on other people's idle machines and pay for exactly the steps that were verified.

What a client needs from Python is here: `train(frame, label=..., budget=...)` beside a local stack, and
`load_model(folder)` and `predict(folder, frame)` on a delivered job. Names load on first use, so that importing the
package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudlinkup.sdk.delivered import load_model, predict
    from cloudlinkup.sdk.train import train

__version__ = "0.1.0"
__all__ = ["load_model", "predict", "train"]

_HOMES = {"load_model": "delivered", "predict": "delivered", "train": "train"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"cloudlinkup.sdk.{_HOMES[name]}"), name)
    raise AttributeError(name)
