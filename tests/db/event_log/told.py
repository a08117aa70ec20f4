"""Whoever waits for a group commit without being a future."""

from __future__ import annotations


class Told:
    """Remembers what it was told; as long as ``is_done`` is false it waits."""

    def __init__(self, told: list[object]) -> None:
        self.told = told
        self.is_done = False

    def done(self) -> bool:
        return self.is_done

    def set_result(self, result: object) -> None:
        self.told.append(result)

    def set_exception(self, error: Exception) -> None:
        self.told.append(str(error))

    def cancel(self) -> None:
        self.told.append("cancelled")
