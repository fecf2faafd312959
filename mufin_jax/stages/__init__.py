"""The stages in the paper's order: Modules I to IV, then evaluation; each maps folders to one."""
