"""The stages in the paper's order: Modules I to IV, then evaluation; each maps a folder to the next."""
