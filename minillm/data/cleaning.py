"""Text clean-up before tokenizing: a pure function of the text and its options."""

import re
import unicodedata
from dataclasses import dataclass

# C0 and C1 controls but for tab and newline, and lone surrogates, which UTF-8 cannot hold.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Cleaning:
    """What `clean` does beyond the steps it always takes.

    Attributes:
        lowercase: fold to lower case.
        dedup: keep only the first of equal lines; blank lines all stay.
    """

    lowercase: bool = False
    dedup: bool = False


def clean(text: str, options: Cleaning = Cleaning()) -> str:  # noqa: B008 (frozen)
    """`text` with newlines as "\\n", no control characters, in Unicode's composed form (NFC).

    Cleaning twice changes nothing more, and printable ASCII comes through as it is.
    """
    text = _CONTROLS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = unicodedata.normalize("NFC", text)
    if options.lowercase:
        text = unicodedata.normalize("NFC", text.lower())
    if options.dedup:
        seen: set[str] = set()
        lines = text.split("\n")
        text = "\n".join(x for x in lines if not x.strip() or not (x in seen or seen.add(x)))
    return text
