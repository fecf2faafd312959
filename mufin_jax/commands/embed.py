"""`mufin embed`: ready vectors of a catalogue; pipeline/embed.py does the work."""

from mufin_jax.commands.parsing import parse
from mufin_jax.pipeline.embed import EmbedConfig, embed
from mufin_jax.runtime.logs import set_up_logging


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging()
    embed(parse(EmbedConfig, arguments, "embed"))
