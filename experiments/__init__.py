"""The paper's experiments: values that differ from the defaults, with the score to expect."""
