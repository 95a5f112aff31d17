"""What goes wrong with files that others made: always one line that says what to do."""

from collections.abc import Iterable

SHOWN = 12  # names per list; a wrong model lists hundreds


class ConversionError(Exception):
    """A fault of the input or the machine, as one line for the person who ran the converter."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def names_list(label: str, names: Iterable[str]) -> str:
    """`missing 2: a, b`; the empty string when there are none."""
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{label} {len(ordered)}: {', '.join(ordered[:SHOWN])}{more}"


def mismatch(what: str, lists: dict[str, Iterable[str]], advice: str) -> ConversionError | None:
    """An error with every list that is not empty, or None when all are."""
    found = [text for label, names in lists.items() if (text := names_list(label, names))]
    return ConversionError(f"{what}: {'; '.join(found)}. {advice}") if found else None


def reason(error: BaseException) -> str:
    """The first line of an error of another library."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
