"""The command line: ``sklrp`` or ``python -m sklrp``.

Here is the group of `.commands`, each of which has a file of its own: `.demo`, `.explain_command`
and `.diagnose_command`. `.call_checks` looks at a call before they do, `.loaded_models` reads what
is explained, `.samples`, `.tables` and `.field_samples` read and write data, `.runs` explains
chunk by chunk, `.reporting` prints errors.
"""

from __future__ import annotations

import click

from sklrp._version import __version__
from sklrp.cli.commands import demo, diagnose, explain
from sklrp.cli.reporting import Commands

__all__ = ["main"]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 99},
    epilog="Status: 0 done, 1 failed, 2 the call or its input is wrong, 130 interrupted, "
    "143 terminated.",
)
@click.version_option(__version__, prog_name="sklrp")
@click.option("--debug", is_flag=True, help="Show where an error was raised.")
def main(debug: bool) -> None:  # numpydoc ignore=PR01
    """Tell which values a network's decisions rest on, by layer-wise relevance propagation.

    A MODEL is a file that sklrp.save has written; loading it runs no code of the file.

    \b
    Examples:
      python -m sklrp demo --out demo
      python -m sklrp explain demo/model.safetensors demo/samples.npy -o relevance.npy
      python -m sklrp diagnose demo/model.safetensors demo/samples.npy
          --labels demo/labels.txt -o report.html
    """


for command in (demo, explain, diagnose):
    main.add_command(command)
