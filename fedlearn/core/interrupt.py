"""What Ctrl-C raises; imports nothing, for it comes before all else."""

_raised = 0


class Interrupt(KeyboardInterrupt):
    """Ctrl-C, with the exit code that we return for it.

    Once a plain `KeyboardInterrupt` has passed through an `exec` of text, as where a dataclass
    is being made, Python ends a program by the signal, whatever exit code it returns
    (`_Py_UnhandledKeyboardInterrupt`, found in CPython 3.11).
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        global _raised
        _raised += 1


def interrupts() -> int:
    """How often Ctrl-C has been raised in this process.

    A library may make an error of its own of it, as compiled code does that calls back into
    Python (pydantic's `SchemaError`): what ends a program after Ctrl-C was a stop all the same.
    """
    return _raised


def interrupt(number: int, frame: object) -> None:
    """A handler for SIGINT."""
    raise Interrupt
