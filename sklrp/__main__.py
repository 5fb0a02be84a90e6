"""The command line, as ``python -m sklrp``.

Python calls it; all else is in `sklrp.cli`.
"""

from sklrp.cli import main

if __name__ == "__main__":
    main(prog_name="python -m sklrp")
