"""The command line, as ``python -m sklrp`` and as the script ``sklrp``.

Python calls it; all else is in `sklrp.cli`. That takes a second or more to import, in which a
signal has to end the process in good order too.
"""

from sklrp._signals import leave_at_signals


def main(prog_name: str | None = None) -> None:
    """Run the command line of a process of its own.

    Parameters
    ----------
    prog_name : str or None, default=None
        What the command is called in its help. None (default): the name of the script.
    """
    leave_at_signals()
    from sklrp.cli import main as run

    try:
        run(prog_name=prog_name)
    finally:
        leave_at_signals()


if __name__ == "__main__":
    main(prog_name="python -m sklrp")
