"""The one exception that means "the user can fix this"."""

import difflib
from collections.abc import Iterable


class LongTailError(Exception):
    """A problem with what the user gave: data, parameters, a checkpoint, the machine.

    The message is one sentence or two that a user can act on: what is wrong, where, and what is allowed. The command line prints it without
    a traceback and exits with status 1.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name closest to ``word``, or an empty string if none is close."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{match[0]}'?" if match else ""
