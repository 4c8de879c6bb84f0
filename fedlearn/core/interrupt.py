"""What Ctrl-C raises; imports nothing, for it comes before all else."""


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, with the exit code that we return for it.

    Once a plain `KeyboardInterrupt` has passed through an `exec` of text, as where a dataclass
    is being made, Python ends a program by the signal, whatever exit code it returns
    (`_Py_UnhandledKeyboardInterrupt`, found in CPython 3.11).
    """


def interrupt(number: int, frame: object) -> None:
    """A handler for SIGINT."""
    raise Interrupt
