"""Amounts of memory and of disk space, as messages and tables give them."""


def in_bytes(count: int, gigabytes: bool = True) -> str:
    """Return a number of bytes in GB, MB or bytes.

    Args:
        count: the number.
        gigabytes: whether large numbers are in GB. Without them, what is needed and what is free
            compare at a glance.
    """
    if gigabytes and count >= 1e9:
        return f"{count / 1e9:,.2f} GB"
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
