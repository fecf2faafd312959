"""`mufin sample`: a made-up shop to try the other commands on; data/synthetic/shop.py makes it."""

from mufin_jax.commands.parsing import parse
from mufin_jax.data.synthetic.shop import ShopConfig, write_shop
from mufin_jax.runtime.logs import set_up_logging


def run(arguments: list[str]) -> None:
    """Run the subcommand on the arguments after its name."""
    set_up_logging()
    config = parse(ShopConfig, arguments, "sample")
    write_shop(config)
    print(f"{config.to} has {config.products:,} products, and {config.new} new ones for tomorrow")
