"""Pure decisions: what is observed goes in, what is to be done comes out. No I/O and no clock of its own."""
