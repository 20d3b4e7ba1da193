"""The one logger of the library."""

from __future__ import annotations

import logging

logger: logging.Logger = logging.getLogger("mirage")
