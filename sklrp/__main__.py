"""The command line, as ``python -m sklrp``."""

from sklrp.cli import main

if __name__ == "__main__":
    main(prog_name="python -m sklrp")
