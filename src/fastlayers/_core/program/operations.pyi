from typing import Any

READS: dict[int, Any]
NUMBERS: dict[str, int]
GRADIENTS: dict[int, Any]
