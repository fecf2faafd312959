"""The command `mufin`: one file a subcommand, each imported when it runs.

`app.py` has the table of subcommands and their short help; `parsing.py` turns arguments into a
subcommand's settings.
"""

from typing import TYPE_CHECKING

from mufin_jax.runtime.imports import lazy_face

if TYPE_CHECKING:
    from mufin_jax.commands.app import COMMANDS, Subcommand, main
    from mufin_jax.commands.parsing import parse

__all__ = ["COMMANDS", "Subcommand", "main", "parse"]
__getattr__, __dir__ = lazy_face(
    __name__, {"app": ["COMMANDS", "Subcommand", "main"], "parsing": ["parse"]}
)
