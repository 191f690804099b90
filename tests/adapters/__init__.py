"""What every adapter must make of the same nets: the figures of passes written by hand."""
